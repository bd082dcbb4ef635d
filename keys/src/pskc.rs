//! PSKC (RFC 6030): keys as XML, each wrapped by AES Key Wrap (RFC 3394) under the key the container names.
//!
//! A writer that needs no more memory than one device. RFC 6030 §6.1 asks for a MAC where a cipher has no integrity
//! check of its own; `kw-aes256` has one, so there is no MACMethod: a changed value does not unwrap.

use std::io::{self, Write};

use domain::KeyUsage;

const PSKC: &str = "urn:ietf:params:xml:ns:keyprov:pskc";
const XMLDSIG: &str = "http://www.w3.org/2000/09/xmldsig#";
const XMLENC: &str = "http://www.w3.org/2001/04/xmlenc#";

/// The hash of the RSA-OAEP that wraps the container's key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OaepDigest {
    /// SHA-1 with MGF1-SHA-1.
    Sha1,
    /// SHA-256 with MGF1-SHA-256.
    Sha256,
}

/// One key of a device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PskcKey {
    /// What it is for.
    pub usage: KeyUsage,
    /// The key under AES Key Wrap: 8 bytes more than the key, base64.
    pub wrapped: String,
    /// Its check value (GP Card Specification §B.6), hexadecimal.
    pub check_value: String,
}

/// The keyset that all devices of a container get: what `KeyProfileId` stands for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PskcKeyset {
    /// Secure channel protocol: `SCP03`.
    pub protocol: String,
    /// Security domain that holds the keys: `ISD-R`, `ECASD`.
    pub security_domain: String,
    /// Key version number on the card.
    pub key_version_number: u8,
}

/// A container being written: its head, a package for each device, its end.
pub struct PskcWriter<W> {
    out: W,
    keyset: PskcKeyset,
}

impl<W: Write> PskcWriter<W> {
    /// Writes the head. `key_name` names the key that wraps; `wrapped_key` is that key under the recipient's RSA key,
    /// base64.
    pub fn begin(
        mut out: W,
        keyset: PskcKeyset,
        key_name: &str,
        wrapped_key: &str,
        oaep: OaepDigest,
    ) -> io::Result<Self> {
        // XML Encryption 1.1 §5.5.2 and §5.5.3: rsa-oaep-mgf1p always has MGF1 with SHA-1.
        let method = match oaep {
            OaepDigest::Sha1 => format!(
                "<xenc:EncryptionMethod Algorithm=\"{XMLENC}rsa-oaep-mgf1p\"><ds:DigestMethod \
                 Algorithm=\"{XMLDSIG}sha1\"/></xenc:EncryptionMethod>"
            ),
            OaepDigest::Sha256 => format!(
                "<xenc:EncryptionMethod Algorithm=\"http://www.w3.org/2009/xmlenc11#rsa-oaep\"><ds:DigestMethod \
                 Algorithm=\"{XMLENC}sha256\"/><xenc11:MGF xmlns:xenc11=\"http://www.w3.org/2009/xmlenc11#\" \
                 Algorithm=\"http://www.w3.org/2009/xmlenc11#mgf1sha256\"/></xenc:EncryptionMethod>"
            ),
        };
        write!(
            out,
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
             <KeyContainer Version=\"1.0\" xmlns=\"{PSKC}\" xmlns:ds=\"{XMLDSIG}\" xmlns:xenc=\"{XMLENC}\">\n\
             <EncryptionKey><ds:KeyName>{}</ds:KeyName><xenc:EncryptedKey>{method}<xenc:CipherData>\
             <xenc:CipherValue>{}</xenc:CipherValue></xenc:CipherData></xenc:EncryptedKey></EncryptionKey>\n",
            escaped(key_name),
            escaped(wrapped_key),
        )?;
        Ok(Self { out, keyset })
    }

    /// Writes the keys of one device.
    pub fn device(&mut self, eid: &str, keys: &[PskcKey]) -> io::Result<()> {
        let PskcKeyset { protocol, security_domain, key_version_number: kvn } = &self.keyset;
        let domain = escaped(security_domain);
        for key in keys {
            let (usage, policy) = match key.usage {
                KeyUsage::Enc => ("ENC", "Derive"),
                KeyUsage::Mac => ("MAC", "Derive"),
                KeyUsage::Psk => ("PSK", "Derive"),
                KeyUsage::Dek | KeyUsage::PskDek => ("DEK", "KeyWrap"),
            };
            writeln!(
                self.out,
                "<KeyPackage><DeviceInfo><SerialNo>{eid}</SerialNo></DeviceInfo>\
                 <CryptoModuleInfo><Id>{domain}</Id></CryptoModuleInfo>\
                 <Key Id=\"{eid}/{domain}/{kvn:02x}/{usage}\">\
                 <KeyProfileId>{protocol}/{domain}/{kvn:02x}/{usage}</KeyProfileId>\
                 <FriendlyName>check value {check}</FriendlyName>\
                 <Data><Secret><EncryptedValue><xenc:EncryptionMethod Algorithm=\"{XMLENC}kw-aes256\"/>\
                 <xenc:CipherData><xenc:CipherValue>{value}</xenc:CipherValue></xenc:CipherData></EncryptedValue>\
                 </Secret></Data><Policy><KeyUsage>{policy}</KeyUsage></Policy></Key></KeyPackage>",
                eid = escaped(eid),
                protocol = escaped(protocol),
                check = escaped(&key.check_value),
                value = escaped(&key.wrapped),
            )?;
        }
        Ok(())
    }

    /// Writes the end; what was written to is given back, not flushed.
    pub fn end(mut self) -> io::Result<W> {
        self.out.write_all(b"</KeyContainer>\n")?;
        Ok(self.out)
    }
}

/// XML 1.0 §2.4: text as character data and in attributes. Control characters, which XML cannot hold, become spaces.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&quot;"),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn keyset() -> PskcKeyset {
        PskcKeyset {
            protocol: "SCP03".to_owned(),
            security_domain: "ISD-R".to_owned(),
            key_version_number: 0x30,
        }
    }

    #[test]
    fn a_container_is_the_one_that_other_software_has_opened() {
        // tests/vectors/SOURCES.md: python-pskc 1.4 unwraps its keys to those of chancery_derivation.json.
        let text = include_str!("../../tests/vectors/pskc_order.json");
        let vectors: serde_json::Value = serde_json::from_str(text).unwrap();
        let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
        let mut writer = PskcWriter::begin(
            Vec::new(),
            keyset(),
            &text(&vectors["key_name"]),
            &text(&vectors["wrapped_key"]),
            OaepDigest::Sha1,
        )
        .unwrap();
        for device in vectors["devices"].as_array().unwrap() {
            let keys: Vec<PskcKey> = KeyUsage::ALL
                .into_iter()
                .zip(["enc", "mac", "dek"])
                .map(|(usage, name)| PskcKey {
                    usage,
                    wrapped: text(&device[name]),
                    check_value: text(&device["kcv"][name]),
                })
                .collect();
            writer.device(&text(&device["eid"]), &keys).unwrap();
        }
        let written = String::from_utf8(writer.end().unwrap()).unwrap();
        assert_eq!(written, include_str!("../../tests/vectors/pskc_order.xml"));
    }

    proptest! {
        #[test]
        fn no_text_breaks_out_of_its_element(text in any::<String>()) {
            let safe = escaped(&text);
            prop_assert!(!safe.contains(['<', '>', '"']));
            prop_assert!(!safe.chars().any(char::is_control));
            let back = safe.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&amp;", "&");
            let expected: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
            prop_assert_eq!(back, expected);
        }
    }
}
