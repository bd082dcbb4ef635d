//! The device between server and eUICC: it puts what the server sent into the commands of ES10b, and the user's
//! confirmation code into its hash.

use aws_lc_rs::digest::{SHA256, digest};

use super::tlv::tlv;

/// What an SM-DP+ answers to InitiateAuthentication (SGP.22 §5.6.1).
pub struct ServerAuthentication<'a> {
    /// DER.
    pub server_signed1: &'a [u8],
    /// r and s, 64 bytes.
    pub server_signature1: &'a [u8],
    /// Which CI the eUICC is to use.
    pub ci_key_id: &'a [u8],
    /// DPauth, DER.
    pub server_certificate: &'a [u8],
}

/// AuthenticateServer (§5.7.13), with the activation code's token or none.
pub fn authenticate_server(server: &ServerAuthentication<'_>, matching_id: Option<&str>) -> Vec<u8> {
    let matching_id = matching_id.map(|id| tlv(0x80, &[id.as_bytes()])).unwrap_or_default();
    // A type allocation code, no capabilities, no IMEI.
    let device_info = tlv(0xa1, &[&tlv(0x80, &[&[0x35, 0x29, 0x06, 0x11]]), &tlv(0xa1, &[])]);
    tlv(
        0xbf38,
        &[
            server.server_signed1,
            &tlv(0x5f37, &[server.server_signature1]),
            &tlv(0x04, &[server.ci_key_id]),
            server.server_certificate,
            &tlv(0xa0, &[&matching_id, &device_info]),
        ],
    )
}

/// PrepareDownload (§5.7.5), with the hash of the confirmation code when the user was asked for one.
pub fn prepare_download(
    smdp_signed2: &[u8],
    smdp_signature2: &[u8],
    smdp_certificate: &[u8],
    hash_cc: Option<[u8; 32]>,
) -> Vec<u8> {
    let hash_cc = hash_cc.map(|hash| tlv(0x04, &[&hash])).unwrap_or_default();
    tlv(0xbf21, &[smdp_signed2, &tlv(0x5f37, &[smdp_signature2]), &hash_cc, smdp_certificate])
}

/// What an SM-DP+ keeps of a confirmation code instead of the code.
pub fn confirmation_code_digest(code: &str) -> [u8; 32] {
    sha256(code.as_bytes())
}

/// The hash that proves the code in one transaction.
pub fn hash_cc(code: &str, transaction_id: &[u8]) -> [u8; 32] {
    sha256(&[&confirmation_code_digest(code), transaction_id].concat())
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    digest(&SHA256, bytes).as_ref().try_into().expect("SHA-256 has 32 bytes")
}
