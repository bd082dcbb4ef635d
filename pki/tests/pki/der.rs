//! DER written out by hand, so that what the crate writes is not judged by itself.

/// One element.
pub fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![tag];
    match content.len() {
        length @ 0..=127 => bytes.push(length as u8),
        length @ 128..=255 => bytes.extend([0x81, length as u8]),
        length => bytes.extend([0x82, (length >> 8) as u8, length as u8]),
    }
    bytes.extend_from_slice(content);
    bytes
}

/// The elements that `content` consists of.
pub fn elements(content: &[u8]) -> Vec<Vec<u8>> {
    let mut rest = content;
    let mut found = Vec::new();
    while !rest.is_empty() {
        let header = header_length(rest);
        let length = match rest[1] {
            0x81 => usize::from(rest[2]),
            0x82 => usize::from(rest[2]) << 8 | usize::from(rest[3]),
            length => usize::from(length),
        };
        found.push(rest[..header + length].to_vec());
        rest = &rest[header + length..];
    }
    found
}

/// The elements inside one constructed element.
pub fn inside(element: &[u8]) -> Vec<Vec<u8>> {
    elements(content(element))
}

/// The content of one element.
pub fn content(element: &[u8]) -> &[u8] {
    &element[header_length(element)..]
}

fn header_length(element: &[u8]) -> usize {
    match element[1] {
        0x81 => 3,
        0x82 => 4,
        _ => 2,
    }
}

/// The bytes behind hexadecimal digits.
pub fn hex(digits: &str) -> Vec<u8> {
    ::hex::decode(digits.replace(' ', "")).unwrap()
}

/// r and s of a DER ECDSA signature on a curve of 256 bits.
pub fn plain_signature(der: &[u8]) -> ecc::Signature {
    let mut plain = [0; 64];
    for (half, integer) in inside(der).iter().enumerate() {
        let magnitude: Vec<u8> = content(integer).iter().copied().skip_while(|byte| *byte == 0).collect();
        let end = 32 * (half + 1);
        plain[end - magnitude.len()..end].copy_from_slice(&magnitude);
    }
    ecc::Signature::bits_256(plain)
}
