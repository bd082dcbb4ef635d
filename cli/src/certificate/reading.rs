//! Certificates and revocation lists in files, PEM or DER, as relying parties have them.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use pki::Certificate;
use pki::crl::{CRL_BYTES_MAX, Crl};
use pki::staple::Staple;

use crate::error::CliError;
use crate::files;

/// The label of a certificate's PEM block.
const CERTIFICATE: &str = "CERTIFICATE";

/// Reads a file with one certificate.
pub fn certificate(path: &Path) -> Result<Certificate, CliError> {
    let bytes = files::read(path)?;
    parse(&bytes).map_err(|why| CliError::invalid(format!("{}: {why}", path.display()), NAME_IT))
}

/// Reads one certificate, PEM with words before it or DER; the error says what is wrong with the bytes.
pub fn parse(bytes: &[u8]) -> Result<Certificate, String> {
    let wrong = |error: &dyn std::fmt::Display| error.to_string();
    if !is_pem(bytes) {
        return Certificate::from_der(bytes).map_err(|error| wrong(&error));
    }
    let block = pem::parse(bytes).map_err(|error| wrong(&error))?;
    if block.tag() != CERTIFICATE {
        return Err(format!("it holds a {}, not a certificate", block.tag()));
    }
    Certificate::from_der(block.contents()).map_err(|error| wrong(&error))
}

/// Reads files of any number of PEM certificates, or of one in DER.
pub fn certificates(paths: &[PathBuf]) -> Result<Vec<Certificate>, CliError> {
    let mut all = Vec::new();
    for path in paths {
        let bytes = files::read(path)?;
        if !is_pem(&bytes) {
            all.push(certificate(path)?);
            continue;
        }
        let wrong = |why: String| CliError::invalid(format!("{}: {why}", path.display()), NAME_IT);
        let blocks = pem::parse_many(&bytes).map_err(|error| wrong(error.to_string()))?;
        for block in blocks {
            if block.tag() != CERTIFICATE {
                return Err(wrong(format!("it holds a {}, not only certificates", block.tag())));
            }
            all.push(Certificate::from_der(block.contents()).map_err(|error| wrong(error.to_string()))?);
        }
    }
    Ok(all)
}

/// Reads one revocation list of at most 16 MiB ([`CRL_BYTES_MAX`]).
pub fn revocation_list(path: &Path) -> Result<Crl, CliError> {
    let mut bytes = Vec::new();
    // One byte more than the parser takes, so that it is the parser who says what is too large.
    File::open(path)
        .and_then(|file| file.take(CRL_BYTES_MAX as u64 + 1).read_to_end(&mut bytes))
        .map_err(CliError::file("read", path))?;
    Crl::parse(&bytes).map_err(|error| CliError::invalid(format!("{}: {error}", path.display()), NAME_IT))
}

/// Reads a bundle of authorities and their lists, as `/staple/` serves it.
pub fn staple(path: &Path) -> Result<Staple, CliError> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(CRL_BYTES_MAX as u64 + 1).read_to_end(&mut bytes))
        .map_err(CliError::file("read", path))?;
    Staple::parse(&bytes).map_err(|error| CliError::invalid(format!("{}: {error}", path.display()), NAME_IT))
}

/// DER is no UTF-8: the length of a certificate takes a byte above 0x7f.
fn is_pem(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_ok_and(|text| text.contains("-----BEGIN "))
}

const NAME_IT: &str = "name the right file";
