//! Object identifiers: the arcs we use, their encoding and its reading.

/// The arcs of an object identifier known at compile time.
pub type Arcs = &'static [u64];

pub(crate) const COMMON_NAME: Arcs = &[2, 5, 4, 3];
pub(crate) const SERIAL_NUMBER: Arcs = &[2, 5, 4, 5];
pub(crate) const COUNTRY: Arcs = &[2, 5, 4, 6];
pub(crate) const ORGANIZATION: Arcs = &[2, 5, 4, 10];
pub(crate) const ORGANIZATIONAL_UNIT: Arcs = &[2, 5, 4, 11];

pub(crate) const SUBJECT_KEY_IDENTIFIER: Arcs = &[2, 5, 29, 14];
pub(crate) const KEY_USAGE: Arcs = &[2, 5, 29, 15];
pub(crate) const SUBJECT_ALTERNATIVE_NAME: Arcs = &[2, 5, 29, 17];
pub(crate) const BASIC_CONSTRAINTS: Arcs = &[2, 5, 29, 19];
pub(crate) const CRL_NUMBER: Arcs = &[2, 5, 29, 20];
pub(crate) const CRL_REASON: Arcs = &[2, 5, 29, 21];
pub(crate) const INVALIDITY_DATE: Arcs = &[2, 5, 29, 24];
pub(crate) const DELTA_CRL_INDICATOR: Arcs = &[2, 5, 29, 27];
pub(crate) const ISSUING_DISTRIBUTION_POINT: Arcs = &[2, 5, 29, 28];
pub(crate) const NAME_CONSTRAINTS: Arcs = &[2, 5, 29, 30];
pub(crate) const CRL_DISTRIBUTION_POINTS: Arcs = &[2, 5, 29, 31];
pub(crate) const CERTIFICATE_POLICIES: Arcs = &[2, 5, 29, 32];
pub(crate) const AUTHORITY_KEY_IDENTIFIER: Arcs = &[2, 5, 29, 35];
pub(crate) const EXTENDED_KEY_USAGE: Arcs = &[2, 5, 29, 37];
pub(crate) const FRESHEST_CRL: Arcs = &[2, 5, 29, 46];

pub(crate) const SERVER_AUTHENTICATION: Arcs = &[1, 3, 6, 1, 5, 5, 7, 3, 1];
pub(crate) const CLIENT_AUTHENTICATION: Arcs = &[1, 3, 6, 1, 5, 5, 7, 3, 2];
pub(crate) const OCSP_SIGNING: Arcs = &[1, 3, 6, 1, 5, 5, 7, 3, 9];

// RFC 6960 appendix B: id-pkix-ocsp.
pub(crate) const OCSP_BASIC: Arcs = &[1, 3, 6, 1, 5, 5, 7, 48, 1, 1];
pub(crate) const OCSP_NONCE: Arcs = &[1, 3, 6, 1, 5, 5, 7, 48, 1, 2];
pub(crate) const OCSP_NO_CHECK: Arcs = &[1, 3, 6, 1, 5, 5, 7, 48, 1, 5];

pub(crate) const SHA_1: Arcs = &[1, 3, 14, 3, 2, 26];
pub(crate) const SHA_256: Arcs = &[2, 16, 840, 1, 101, 3, 4, 2, 1];

// SGP.22 v2 annex (RSPDefinitions): id-rspExt = 2.23.146.1.2.0.
pub(crate) const EXPIRATION_DATE: Arcs = &[2, 23, 146, 1, 2, 0, 1];
pub(crate) const TOTAL_PARTIAL_CRL_NUMBER: Arcs = &[2, 23, 146, 1, 2, 0, 2];
pub(crate) const PARTIAL_CRL_NUMBER: Arcs = &[2, 23, 146, 1, 2, 0, 3];

// SGP.22 annex (RSPDefinitions): id-rspRole = 2.23.146.1.2.1.
pub(crate) const ROLE_CI: Arcs = &[2, 23, 146, 1, 2, 1, 0];
pub(crate) const ROLE_EUICC: Arcs = &[2, 23, 146, 1, 2, 1, 1];
pub(crate) const ROLE_EUM: Arcs = &[2, 23, 146, 1, 2, 1, 2];
pub(crate) const ROLE_DP_TLS: Arcs = &[2, 23, 146, 1, 2, 1, 3];
pub(crate) const ROLE_DP_AUTH: Arcs = &[2, 23, 146, 1, 2, 1, 4];
pub(crate) const ROLE_DP_PB: Arcs = &[2, 23, 146, 1, 2, 1, 5];

pub(crate) const ROLE_DS_TLS: Arcs = &[2, 23, 146, 1, 2, 1, 6];
pub(crate) const ROLE_DS_AUTH: Arcs = &[2, 23, 146, 1, 2, 1, 7];

// SGP.22 v3 annex H: each role below the one that issues it.
pub(crate) const ROLE_CI_SUB_CA: Arcs = &[2, 23, 146, 1, 2, 1, 0, 0];
pub(crate) const ROLE_EUM_V3: Arcs = &[2, 23, 146, 1, 2, 1, 0, 0, 0];
pub(crate) const ROLE_EUM_SUB_CA: Arcs = &[2, 23, 146, 1, 2, 1, 0, 0, 0, 0];
pub(crate) const ROLE_EUICC_V3: Arcs = &[2, 23, 146, 1, 2, 1, 0, 0, 0, 0, 0];
pub(crate) const ROLE_DP_SUB_CA: Arcs = &[2, 23, 146, 1, 2, 1, 0, 0, 1];
pub(crate) const ROLE_DP_TLS_V3: Arcs = &[2, 23, 146, 1, 2, 1, 0, 0, 1, 0];
pub(crate) const ROLE_DP_AUTH_V3: Arcs = &[2, 23, 146, 1, 2, 1, 0, 0, 1, 1];
pub(crate) const ROLE_DP_PB_V3: Arcs = &[2, 23, 146, 1, 2, 1, 0, 0, 1, 2];
pub(crate) const ROLE_DS_SUB_CA: Arcs = &[2, 23, 146, 1, 2, 1, 0, 0, 2];
pub(crate) const ROLE_DS_TLS_V3: Arcs = &[2, 23, 146, 1, 2, 1, 0, 0, 2, 0];
pub(crate) const ROLE_DS_AUTH_V3: Arcs = &[2, 23, 146, 1, 2, 1, 0, 0, 2, 1];

// SGP.22 v3 annex H: id-rsp-extensions = 2.23.146.1.2.2.
pub(crate) const PERMITTED_EINS: Arcs = &[2, 23, 146, 1, 2, 2, 0];

pub(crate) const EC_PUBLIC_KEY: Arcs = &[1, 2, 840, 10045, 2, 1];
pub(crate) const P256: Arcs = &[1, 2, 840, 10045, 3, 1, 7];
pub(crate) const P384: Arcs = &[1, 3, 132, 0, 34];
pub(crate) const BRAINPOOL_P256R1: Arcs = &[1, 3, 36, 3, 3, 2, 8, 1, 1, 7];
pub(crate) const RSA_ENCRYPTION: Arcs = &[1, 2, 840, 113549, 1, 1, 1];
pub(crate) const ECDSA_WITH_SHA256: Arcs = &[1, 2, 840, 10045, 4, 3, 2];
pub(crate) const ECDSA_WITH_SHA384: Arcs = &[1, 2, 840, 10045, 4, 3, 3];
pub(crate) const ECDSA_WITH_SHA512: Arcs = &[1, 2, 840, 10045, 4, 3, 4];
// RFC 5652 §4 and §5.1.
pub(crate) const DATA: Arcs = &[1, 2, 840, 113549, 1, 7, 1];
pub(crate) const SIGNED_DATA: Arcs = &[1, 2, 840, 113549, 1, 7, 2];
pub(crate) const EXTENSION_REQUEST: Arcs = &[1, 2, 840, 113549, 1, 9, 14];

/// ecdsa-with-SHA2 (RFC 5758 §3.2); it has no parameters.
pub(crate) const fn ecdsa_with(hash: ecc::Hash) -> Arcs {
    match hash {
        ecc::Hash::Sha256 => ECDSA_WITH_SHA256,
        ecc::Hash::Sha384 => ECDSA_WITH_SHA384,
        ecc::Hash::Sha512 => ECDSA_WITH_SHA512,
    }
}

/// The content octets of an object identifier; X.690 §8.19.
pub(crate) fn encode(arcs: &[u64]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(arcs.len() + 4);
    if let [first, second, rest @ ..] = arcs {
        push_arc(&mut bytes, first * 40 + second);
        for arc in rest {
            push_arc(&mut bytes, *arc);
        }
    }
    bytes
}

fn push_arc(into: &mut Vec<u8>, arc: u64) {
    let groups = (64 - arc.leading_zeros()).div_ceil(7).max(1);
    for group in (0..groups).rev() {
        let bits = (arc >> (7 * group)) as u8 & 0x7f;
        into.push(if group == 0 { bits } else { bits | 0x80 });
    }
}

/// The arcs behind content octets; absent when they are no canonical encoding or an arc exceeds 63 bits.
pub(crate) fn decode(bytes: &[u8]) -> Option<Vec<u64>> {
    let mut arcs = Vec::with_capacity(bytes.len() + 1);
    let mut value = 0u64;
    let mut starts = true;
    for byte in bytes {
        if (starts && *byte == 0x80) || value >= 1 << 56 {
            return None;
        }
        value = value << 7 | u64::from(byte & 0x7f);
        starts = byte & 0x80 == 0;
        if starts {
            if arcs.is_empty() {
                let first = (value / 40).min(2);
                arcs.extend([first, value - first * 40]);
            } else {
                arcs.push(value);
            }
            value = 0;
        }
    }
    (starts && !arcs.is_empty()).then_some(arcs)
}

/// The arcs of a dotted text such as `2.999.10`.
pub(crate) fn parse(text: &str) -> Option<Vec<u64>> {
    if text.len() > 200 {
        return None;
    }
    let arcs = text
        .split('.')
        .map(|arc| {
            let canonical = arc == "0" || (!arc.starts_with('0') && arc.bytes().all(|c| c.is_ascii_digit()));
            canonical.then(|| arc.parse::<u64>().ok()).flatten().filter(|arc| *arc < 1 << 55)
        })
        .collect::<Option<Vec<u64>>>()?;
    match arcs.as_slice() {
        [0 | 1, 0..=39, ..] | [2, _, ..] => Some(arcs),
        _ => None,
    }
}

/// The dotted text of `arcs`.
pub(crate) fn dotted(arcs: &[u64]) -> String {
    arcs.iter().map(u64::to_string).collect::<Vec<_>>().join(".")
}

/// The dotted text behind content octets, or their hexadecimal digits when they encode nothing.
pub(crate) fn describe(bytes: &[u8]) -> String {
    decode(bytes).map_or_else(|| hex::encode(bytes), |arcs| dotted(&arcs))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn published_encodings_are_reproduced() {
        for (text, hex) in [
            ("2.999.10", "88370a"),
            ("2.23.146.1.2.1.2", "67811201020102"),
            ("1.2.840.10045.4.3.2", "2a8648ce3d040302"),
            ("1.3.6.1.4.1.46304", "2b0601040182e960"),
        ] {
            assert_eq!(hex::encode(encode(&parse(text).unwrap())), hex);
            assert_eq!(describe(&hex::decode(hex).unwrap()), text);
        }
    }

    #[test]
    fn texts_that_are_no_object_identifier_are_refused() {
        for text in ["", "2", "3.1", "1.40", "2..1", "2.01", "1.2.a", "2.-1", "2.99999999999999999999"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_decodes_encodes_to_the_same_octets(bytes in proptest::collection::vec(any::<u8>(), 0..24)) {
            if let Some(arcs) = decode(&bytes) {
                prop_assert_eq!(encode(&arcs), bytes);
            }
        }
    }
}
