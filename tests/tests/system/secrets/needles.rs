//! Secrets that are looked for, in every form in which they might have been written.

const ZEROS: [u8; 1024] = [0; 1024];

/// The secrets of one search.
pub struct Needles {
    /// Each with the number of its secret.
    forms: Vec<(usize, Vec<u8>)>,
    /// By their first two bytes, so that a first look spares most comparisons; none for most.
    starts: Vec<Option<Vec<usize>>>,
}

/// The forms of one secret.
pub fn forms(secret: &[u8]) -> Vec<Vec<u8>> {
    let lower = hex::encode(secret);
    let listed = secret.iter().map(u8::to_string).collect::<Vec<_>>().join(", ");
    vec![secret.to_vec(), lower.to_uppercase().into_bytes(), lower.into_bytes(), listed.into_bytes()]
}

fn pair(bytes: &[u8]) -> usize {
    usize::from(bytes[0]) << 8 | usize::from(bytes[1])
}

impl Needles {
    pub fn new(secrets: &[Vec<u8>]) -> Self {
        let numbered =
            |(number, secret): (usize, &Vec<u8>)| forms(secret).into_iter().map(move |form| (number, form));
        let mut forms: Vec<_> = secrets.iter().enumerate().flat_map(numbered).collect();
        // Of random bytes one in 65,536.
        forms.retain(|(_, form)| form[..2] != [0, 0]);
        let mut starts = vec![None; 1 << 16];
        for (at, (_, form)) in forms.iter().enumerate() {
            starts[pair(form)].get_or_insert_with(Vec::new).push(at);
        }
        Self { forms, starts }
    }

    /// Which secrets occur in the bytes: their numbers, each once.
    pub fn found_in(&self, bytes: &[u8]) -> Vec<usize> {
        let mut found = Vec::new();
        let mut at = 0;
        while at + 1 < bytes.len() {
            // No form that is looked for begins with two zeros, and most memory is zero.
            if bytes[at..].starts_with(&ZEROS) {
                at += ZEROS.len() - 1;
                continue;
            }
            for candidate in self.starts[pair(&bytes[at..])].iter().flatten() {
                let (number, form) = &self.forms[*candidate];
                if bytes[at..].starts_with(form) && !found.contains(number) {
                    found.push(*number);
                }
            }
            at += 1;
        }
        found
    }
}
