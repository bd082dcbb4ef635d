//! An order's output as documents: PSKC containers and CSV for pySim, one for each transport key, made from the fetched
//! lines without any key in clear.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use clap::Args;
use domain::OrderFormat;
use keys::pskc::{OaepDigest, PskcKey, PskcKeyset, PskcWriter};
use keys::pysim_csv;
use serde::Serialize;

use crate::error::CliError;
use crate::files;
use crate::order::parse_format;
use crate::order_lines::{DeviceKeys, KEY_PAIR_FORM, OutputLine, OutputReader, TransportKey};
use crate::output::{Output, fields};

/// Arguments of `order documents`.
#[derive(Debug, Args)]
pub struct Render {
    /// The fetched output
    #[arg(long = "order-output", value_name = "FILE")]
    pub order_output: PathBuf,
    /// Folder for the documents: 000000.xml or 000000.csv and so on, one for each transport key
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
}

/// What was written.
#[derive(Debug, Serialize)]
pub struct Documents {
    /// Where.
    pub folder: PathBuf,
    /// Format of the order.
    pub format: String,
    /// Number of documents.
    pub documents: u64,
    /// Devices in them.
    pub devices: u64,
}

impl Render {
    /// Runs it.
    pub fn run(&self, output: Output) -> Result<(), CliError> {
        let documents = write_documents(&self.order_output, &self.out)?;
        output.print(&documents, |documents| {
            fields([
                ("folder", documents.folder.display().to_string()),
                ("format", documents.format.clone()),
                ("documents", documents.documents.to_string()),
                ("devices", documents.devices.to_string()),
            ])
        })
    }
}

/// Writes the documents of an output; what is there under the same names is replaced. Memory: one line.
pub fn write_documents(order_output: &Path, folder: &Path) -> Result<Documents, CliError> {
    files::create_folder(folder)?;
    let mut reader = OutputReader::open(order_output)?;
    let mut written =
        Documents { folder: folder.to_owned(), format: String::new(), documents: 0, devices: 0 };
    let mut open: Option<Document> = None;
    let mut key: Option<(OrderFormat, TransportKey)> = None;
    while let Some((_, line)) = reader.next_line()? {
        match line {
            OutputLine::TransportKey(next) if next.format == KEY_PAIR_FORM => {}
            OutputLine::TransportKey(next) => {
                if let Some(document) = open.take() {
                    document.end()?;
                }
                let format = parse_format(&next.format).map_err(CliError::Answer)?;
                format.as_str().clone_into(&mut written.format);
                key = Some((format, next));
            }
            OutputLine::Device(device) => {
                let document = match &mut open {
                    Some(document) => document,
                    None => {
                        let (format, key) = key.as_ref().ok_or_else(|| {
                            CliError::Answer("an output begins with a transport key".to_owned())
                        })?;
                        let Some(document) =
                            Document::begin(folder, written.documents, *format, key, &device)?
                        else {
                            return Err(CliError::invalid(
                                format!(
                                    "an order as {} has no other document than its output",
                                    format.as_str()
                                ),
                                "use the fetched output itself",
                            ));
                        };
                        written.documents += 1;
                        open.insert(document)
                    }
                };
                document.device(&device)?;
                written.devices += 1;
            }
        }
    }
    if let Some(document) = open {
        document.end()?;
    }
    Ok(written)
}

/// One document, written under another name until it is whole.
struct Document {
    content: Content,
    part: PathBuf,
    path: PathBuf,
}

enum Content {
    Pskc(PskcWriter<BufWriter<File>>),
    Csv(BufWriter<File>),
}

impl Document {
    /// Begins a document for the devices that follow; `None` for a format whose output is the document.
    fn begin(
        folder: &Path,
        number: u64,
        format: OrderFormat,
        key: &TransportKey,
        first: &DeviceKeys,
    ) -> Result<Option<Self>, CliError> {
        let extension = match format {
            OrderFormat::JsonlKwp => return Ok(None),
            OrderFormat::Pskc => "xml",
            OrderFormat::Tr31 | OrderFormat::PysimCsv => "csv",
        };
        let path = folder.join(format!("{number:06}.{extension}"));
        let part = folder.join(format!("{number:06}.{extension}.part"));
        let file = BufWriter::new(File::create(&part).map_err(CliError::file("create", &part))?);
        let (protocol, domain, kvn) = first.keyset()?;
        let content = match format {
            OrderFormat::JsonlKwp => return Ok(None),
            OrderFormat::Pskc => {
                let oaep = match key.oaep_hash.as_str() {
                    "SHA-1" => OaepDigest::Sha1,
                    "SHA-256" => OaepDigest::Sha256,
                    other => return Err(CliError::Answer(format!("RSA-OAEP with {other} is unknown"))),
                };
                let keyset = PskcKeyset {
                    protocol: protocol.as_str().to_ascii_uppercase(),
                    security_domain: domain.as_str().to_ascii_uppercase(),
                    key_version_number: kvn.value(),
                };
                let wrapped = base64_of(&key.wrapped)?;
                let begun = PskcWriter::begin(file, keyset, &key.transport_key, &wrapped, oaep);
                Content::Pskc(begun.map_err(CliError::file("write", &part))?)
            }
            OrderFormat::Tr31 => {
                let columns: Vec<_> =
                    protocol.usages().iter().map(|usage| usage.as_str().to_ascii_uppercase()).collect();
                let header = pysim_csv::row("EID", columns.iter().map(String::as_str));
                Content::Csv(written(file, &header, &part)?)
            }
            OrderFormat::PysimCsv => {
                let columns: Vec<_> = protocol
                    .usages()
                    .iter()
                    .map(|usage| pysim_csv::column(protocol, domain, kvn, *usage).unwrap_or_default())
                    .collect();
                let header = pysim_csv::row("EID", columns.iter().map(String::as_str));
                Content::Csv(written(file, &header, &part)?)
            }
        };
        Ok(Some(Self { content, part, path }))
    }

    fn device(&mut self, device: &DeviceKeys) -> Result<(), CliError> {
        match &mut self.content {
            Content::Pskc(writer) => {
                let (protocol, ..) = device.keyset()?;
                let mut wrapped = Vec::with_capacity(3);
                for ((usage, key), (_, check_value)) in
                    device.keys.of(protocol)?.into_iter().zip(device.kcv.of(protocol)?)
                {
                    let check_value = check_value.to_owned();
                    wrapped.push(PskcKey { usage, wrapped: base64_of(key)?, check_value });
                }
                writer.device(&device.eid, &wrapped).map_err(CliError::file("write", &self.part))
            }
            Content::Csv(writer) => {
                let (protocol, ..) = device.keyset()?;
                let cells = device.keys.of(protocol)?.into_iter().map(|(_, cell)| cell);
                let row = pysim_csv::row(&device.eid, cells);
                writer.write_all(row.as_bytes()).map_err(CliError::file("write", &self.part))
            }
        }
    }

    fn end(self) -> Result<(), CliError> {
        let failed = || CliError::file("write", &self.part);
        let writer = match self.content {
            Content::Pskc(writer) => writer.end().map_err(failed())?,
            Content::Csv(writer) => writer,
        };
        let file = writer.into_inner().map_err(|error| failed()(error.into_error()))?;
        file.sync_all().map_err(failed())?;
        files::rename(&self.part, &self.path)
    }
}

fn written(mut file: BufWriter<File>, text: &str, path: &Path) -> Result<BufWriter<File>, CliError> {
    file.write_all(text.as_bytes()).map_err(CliError::file("write", path))?;
    Ok(file)
}

fn base64_of(hexadecimal: &str) -> Result<String, CliError> {
    let bytes =
        hex::decode(hexadecimal).map_err(|_| CliError::Answer("a key is not hexadecimal".to_owned()))?;
    Ok(BASE64.encode(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(format: &str) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("output.jsonl");
        let mut text = String::new();
        for chunk in 0..2 {
            text += &format!(
                "{{\"transport_key\":\"eum/order/{chunk}\",\"wrapped\":\"00ff\",\"oaep_hash\":\"SHA-1\",\
                 \"recipient\":\"aa\",\"format\":\"{format}\"}}\n\
                 {{\"transport_key\":\"eum/order/{chunk}/key-pairs\",\"wrapped\":\"00\",\"oaep_hash\":\"SHA-1\",\
                 \"recipient\":\"aa\",\"format\":\"pkcs8-kwp\"}}\n\
                 {{\"eid\":\"89049032123451234512345678901235\",\"security_domain\":1,\"kvn\":48,\
                 \"algorithm\":\"AES-128\",\"transport_key\":\"eum/order/{chunk}\",\"enc\":\"01\",\"mac\":\"02\",\
                 \"dek\":\"0{chunk}\",\"kcv\":{{\"enc\":\"aaaaaa\",\"mac\":\"bbbbbb\",\"dek\":\"cccccc\"}},\
                 \"private_key\":\"00\"}}\n"
            );
        }
        std::fs::write(&path, text).unwrap();
        (folder, path)
    }

    #[test]
    fn each_transport_key_has_a_document_of_its_own() {
        let (folder, path) = output("pysim-csv");
        let out = folder.path().join("documents");
        let written = write_documents(&path, &out).unwrap();
        assert_eq!((written.documents, written.devices), (2, 2));
        assert_eq!(
            std::fs::read_to_string(out.join("000001.csv")).unwrap(),
            "EID,SCP03_ENC_ISDR,SCP03_MAC_ISDR,SCP03_DEK_ISDR\n89049032123451234512345678901235,01,02,01\n"
        );
        assert!(!out.join("000001.csv.part").exists());
    }

    #[test]
    fn a_container_names_its_transport_key() {
        let (folder, path) = output("pskc");
        let out = folder.path().join("documents");
        write_documents(&path, &out).unwrap();
        let text = std::fs::read_to_string(out.join("000000.xml")).unwrap();
        assert!(text.contains("<ds:KeyName>eum/order/0</ds:KeyName>"), "{text}");
        assert!(text.ends_with("</KeyContainer>\n"));
    }

    #[test]
    fn an_output_that_is_its_own_document_has_no_other() {
        let (folder, path) = output("jsonl-kwp");
        assert!(write_documents(&path, &folder.path().join("documents")).is_err());
    }
}
