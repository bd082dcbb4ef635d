//! PEM (RFC 7468) in its strict form, for secrets too: every copy made on the way is wiped.

use crate::error::PkiError;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

const LINE: usize = 64;
const BEGIN: &str = "-----BEGIN ";
const LINE_AND_BEGIN: &str = "\n-----BEGIN ";

/// Whether this is text with a PEM block rather than DER, whose long-form length is never UTF-8.
pub(crate) fn is_pem(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_ok_and(|text| block_start(text).is_some())
}

/// Where the first block begins: RFC 7468 §2 allows explanatory text before it, as OpenSSL writes.
fn block_start(text: &str) -> Option<usize> {
    if text.starts_with(BEGIN) { Some(0) } else { text.find(LINE_AND_BEGIN).map(|at| at + 1) }
}

/// One block with lines of 64 characters.
pub(crate) fn encode(der: &[u8], label: &str) -> Zeroizing<String> {
    let body = Zeroizing::new(STANDARD.encode(der));
    // The final size at once, so that growing leaves no copy behind.
    let mut text =
        Zeroizing::new(String::with_capacity(body.len() + body.len() / LINE + 2 * label.len() + 40));
    text.push_str(BEGIN);
    text.push_str(label);
    text.push_str("-----\n");
    let mut rest = body.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(LINE));
        text.push_str(line);
        text.push('\n');
        rest = after;
    }
    text.push_str("-----END ");
    text.push_str(label);
    text.push_str("-----\n");
    text
}

/// The content of the single block that `text` consists of, which must carry `label`.
pub(crate) fn decode(text: &[u8], label: &str, limit: usize) -> Result<Zeroizing<Vec<u8>>, PkiError> {
    if text.len() > limit {
        return Err(PkiError::TooLarge { what: "the PEM text", limit });
    }
    let malformed = |why| PkiError::Malformed { what: "the PEM text", why };
    let text = std::str::from_utf8(text).map_err(|_| malformed("not text"))?.trim();
    let start = block_start(text).ok_or_else(|| malformed("it holds no block"))?;
    let body = text[start..]
        .strip_prefix(BEGIN)
        .and_then(|rest| rest.strip_prefix(label))
        .and_then(|rest| rest.strip_prefix("-----"))
        .ok_or_else(|| malformed("it does not begin with the expected label"))?
        .strip_suffix("-----")
        .and_then(|rest| rest.strip_suffix(label))
        .and_then(|rest| rest.strip_suffix("-----END "))
        .ok_or_else(|| malformed("it does not end with the expected label"))?;
    let mut compact = Zeroizing::new(String::with_capacity(body.len()));
    compact.extend(body.chars().filter(|c| !c.is_ascii_whitespace()));
    let mut der = Zeroizing::new(vec![0; compact.len() / 4 * 3 + 3]);
    let length = STANDARD
        .decode_slice(compact.as_bytes(), &mut der)
        .map_err(|_| malformed("the body is no base64"))?;
    der.truncate(length);
    Ok(der)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_round_trip_with_lines_of_64_characters() {
        for length in [0usize, 1, 47, 48, 49, 500] {
            let bytes: Vec<u8> = (0..length).map(|n| n as u8).collect();
            let text = encode(&bytes, "CERTIFICATE");
            assert!(text.lines().all(|line| line.len() <= LINE));
            assert_eq!(*decode(text.as_bytes(), "CERTIFICATE", 4096).unwrap(), bytes);
            assert!(decode(text.as_bytes(), "PRIVATE KEY", 4096).is_err());
            assert!(decode(text.as_bytes(), "CERTIFICATE", 10).is_err());
        }
    }

    #[test]
    fn explanatory_text_may_stand_before_a_block_only() {
        let block = encode(b"abc", "X");
        assert_eq!(**decode(format!("Subject: é\n{}", *block).as_bytes(), "X", 4096).unwrap(), *b"abc");
        assert!(decode(format!("Subject: {}", *block).as_bytes(), "X", 4096).is_err());
        assert!(decode(format!("{}Subject: a\n", *block).as_bytes(), "X", 4096).is_err());
    }

    #[test]
    fn two_blocks_or_a_broken_body_are_refused() {
        let one = encode(b"abc", "X");
        let two = format!("{}{}", *one, *one);
        assert!(decode(two.as_bytes(), "X", 4096).is_err());
        assert!(decode(b"-----BEGIN X-----\n*\n-----END X-----\n", "X", 4096).is_err());
    }
}
