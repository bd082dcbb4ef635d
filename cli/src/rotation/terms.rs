//! The terms of a rotation: by options or from a file, and in words for whoever signs them.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use domain::{Eid, Ein, KeyVersionNumber, KeysetAlgorithm, Protocol, SecurityDomain};
use proto::v1::{KeysetName, PutKeyDialect, RotationTerms, ScriptChannel};
use serde::Deserialize;

use crate::clock::{Expiry, parse_expiry};
use crate::error::CliError;
use crate::files;
use crate::identity::parse_name;
use crate::order::{Algorithm, KeysetArgs, SecurityDomainArg, parse_kvn};
use crate::output::printable;
use crate::render::Field;

/// What is to be rotated, by options or from a file.
#[derive(Debug, Args)]
pub struct TermsArgs {
    /// The terms as JSON (docs/formats/rotation-terms.md), instead of the options below
    #[arg(long, value_name = "FILE", conflicts_with_all = TERM_OPTIONS)]
    file: Option<PathBuf>,
    /// Unique name of the rotation
    #[arg(long, value_parser = parse_name, required_unless_present = "file")]
    name: Option<String>,
    /// The party that loads the scripts into the cards
    #[arg(long, value_parser = parse_name, required_unless_present = "file")]
    provisioner: Option<String>,
    /// A device; may be repeated
    #[arg(long = "eid", required_unless_present_any = ["eins", "file"])]
    eids: Vec<Eid>,
    /// A range: every device of it that has the old keyset; may be repeated
    #[arg(long = "ein", value_name = "DIGITS")]
    eins: Vec<Ein>,
    /// Security domain that holds the keysets
    #[arg(long, default_value = "isd-r")]
    security_domain: SecurityDomainArg,
    /// Key version number that the cards have
    #[arg(long, value_name = "KVN", value_parser = parse_kvn, required_unless_present = "file")]
    from_kvn: Option<u8>,
    /// Key version number that they get; a card never changes the keys under the old number
    #[arg(long, value_name = "KVN", value_parser = parse_kvn, required_unless_present = "file")]
    to_kvn: Option<u8>,
    /// Key length that they get: AES-128 or AES-256
    #[arg(long, ignore_case = true, default_value = "AES-256")]
    to_algorithm: Algorithm,
    /// How the cards read PUT KEY
    #[arg(long, ignore_case = true, default_value = "a")]
    dialect: DialectArg,
    /// Percentages of the fleet, ascending; each stage begins when the one before is done
    #[arg(long, value_name = "PERCENT,...", value_delimiter = ',', default_value = "1,10,100")]
    stages: Vec<u32>,
    /// How long the old keyset is still served after a card proved the new one: 7d, 12h; 90 days at most
    #[arg(long, default_value = "7d", value_name = "DURATION", value_parser = parse_duration_s)]
    overlap: u32,
    /// Halt when more of the devices that ended than this many percent failed
    #[arg(long, default_value_t = 5, value_name = "PERCENT")]
    halt_failures: u32,
    /// Once an old keyset has ended, have it deleted from its card (rotation fetch-deletions)
    #[arg(long)]
    delete_old: bool,
    /// Carry the scripts over an SCP03 channel that is prepared for each card: the i parameter of the cards in hex, 10, 30 or 70,
    /// whose challenges follow from their sequence counters
    #[arg(long, value_name = "HEX", value_parser = parse_byte)]
    carry_i: Option<u8>,
    /// Level of that channel: 01 C-MAC, or 03 with C-DECRYPTION
    #[arg(long, value_name = "HEX", value_parser = parse_byte, default_value = "03", requires = "carry_i")]
    carry_level: u8,
    /// Sequence counter of a card of which none is known
    #[arg(long, value_name = "NUMBER", default_value_t = 1, requires = "carry_i")]
    carry_first_counter: u32,
}

fn parse_byte(text: &str) -> Result<u8, String> {
    let mut byte = [0; 1];
    hex::decode_to_slice(text, &mut byte).map_err(|_| "give 2 hexadecimal digits".to_owned())?;
    Ok(byte[0])
}

const TERM_OPTIONS: [&str; 16] = [
    "name",
    "provisioner",
    "eids",
    "eins",
    "security_domain",
    "from_kvn",
    "to_kvn",
    "to_algorithm",
    "dialect",
    "stages",
    "overlap",
    "halt_failures",
    "delete_old",
    "carry_i",
    "carry_level",
    "carry_first_counter",
];

/// Longest overlap: 90 days.
const OVERLAP_MAX_S: u32 = 90 * 86_400;

/// The two forms of PUT KEY for AES keys.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DialectArg {
    /// GP Card Specification 2.3: the clear key length stands in the block only when the key was padded
    A,
    /// Older cards (Amendment D 1.1): the clear key length always stands in the block
    B,
}

impl DialectArg {
    const fn to_wire(self) -> PutKeyDialect {
        match self {
            Self::A => PutKeyDialect::A,
            Self::B => PutKeyDialect::B,
        }
    }
}

/// A terms file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TermsFile {
    name: String,
    provisioner: String,
    #[serde(default)]
    eids: Vec<String>,
    #[serde(default)]
    eins: Vec<String>,
    #[serde(default = "isd_r")]
    security_domain: String,
    from_kvn: Kvn,
    to_kvn: Kvn,
    to_algorithm: String,
    #[serde(default = "dialect_a")]
    dialect: DialectArg,
    stages: Vec<u32>,
    overlap: String,
    halt_failures_percent: u32,
    #[serde(default)]
    delete_old_keys: bool,
    #[serde(default)]
    channel: Option<ChannelFile>,
}

/// The channel of a terms file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ChannelFile {
    i: String,
    security_level: String,
    #[serde(default)]
    aid: String,
    first_sequence_counter: u32,
}

fn isd_r() -> String {
    "isd-r".to_owned()
}

const fn dialect_a() -> DialectArg {
    DialectArg::A
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Kvn {
    Number(u32),
    Text(String),
}

impl Kvn {
    fn read(&self) -> Result<u8, String> {
        match self {
            Self::Number(number) => parse_kvn(&number.to_string()),
            Self::Text(text) => parse_kvn(text),
        }
    }
}

/// Reads a duration such as `7d` as seconds. For clap.
pub fn parse_duration_s(text: &str) -> Result<u32, String> {
    match parse_expiry(text) {
        Ok(Expiry::In(seconds)) => u32::try_from(seconds).map_err(|_| "at most 90d".to_owned()),
        Ok(Expiry::At(_)) | Err(_) => Err("give a duration such as 7d, 12h, 30m or 90s".to_owned()),
    }
}

impl ChannelFile {
    fn to_wire(&self) -> Result<ScriptChannel, String> {
        let byte = |text: &str, name: &str| parse_byte(text).map_err(|why| format!("channel.{name}: {why}"));
        Ok(ScriptChannel {
            i_parameter: byte(&self.i, "i")?.into(),
            security_level: byte(&self.security_level, "security_level")?.into(),
            aid: hex::decode(&self.aid).map_err(|_| "channel.aid: give hexadecimal digits".to_owned())?,
            first_sequence_counter: self.first_sequence_counter,
        })
    }
}

impl TermsArgs {
    /// As the contract carries them. What can be judged here is; devices and parties are the service's to judge.
    pub fn terms(&self) -> Result<RotationTerms, CliError> {
        let terms = match (&self.file, &self.name, &self.provisioner, self.from_kvn, self.to_kvn) {
            (Some(path), ..) => from_file(path)?,
            (None, Some(name), Some(provisioner), Some(from_kvn), Some(to_kvn)) => RotationTerms {
                name: name.clone(),
                provisioner: provisioner.clone(),
                eids: self.eids.iter().map(Eid::to_string).collect(),
                eins: self.eins.iter().map(Ein::to_string).collect(),
                from: Some(KeysetArgs { kvn: from_kvn, security_domain: self.security_domain }.name()),
                to_key_version_number: to_kvn.into(),
                to_key_bits: self.to_algorithm.key_bits(),
                dialect: self.dialect.to_wire().into(),
                stages: self.stages.clone(),
                overlap_seconds: self.overlap,
                halt_failures_percent: self.halt_failures,
                deletes_old_keys: self.delete_old,
                channel: self.carry_i.map(|i| ScriptChannel {
                    i_parameter: i.into(),
                    security_level: self.carry_level.into(),
                    aid: Vec::new(),
                    first_sequence_counter: self.carry_first_counter,
                }),
            },
            (None, ..) => return Err(CliError::invalid("the terms are not complete", "pass --file")),
        };
        check(&terms)?;
        Ok(terms)
    }
}

fn check(terms: &RotationTerms) -> Result<(), CliError> {
    let ascending = terms.stages.windows(2).all(|pair| pair[0] < pair[1]);
    if !ascending || terms.stages.first().is_none_or(|first| *first == 0) || terms.stages.last() != Some(&100)
    {
        return Err(CliError::invalid(
            "the stages do not ascend to 100 percent",
            "give percentages such as 1,10,100: each larger than the one before, the last 100",
        ));
    }
    if terms.to_key_bits == 192 {
        // Most tokens and many cards cannot take 192 bits through PUT KEY without padding.
        return Err(CliError::invalid("AES-192 is no target of a rotation", "choose AES-128 or AES-256"));
    }
    if terms.overlap_seconds > OVERLAP_MAX_S {
        return Err(CliError::invalid("the overlap is longer than 90 days", "choose 90d or less"));
    }
    if !(1..=100).contains(&terms.halt_failures_percent) {
        return Err(CliError::invalid(
            "the share of failures that halts is no percentage",
            "give 1 to 100 percent",
        ));
    }
    let old = terms.from.map_or(0, |from| from.key_version_number);
    if old == terms.to_key_version_number {
        return Err(CliError::invalid(
            "the new key version is the old one",
            "choose a free key version number: a card cannot change length or kind of keys in place",
        ));
    }
    Ok(())
}

pub(crate) fn from_file(path: &Path) -> Result<RotationTerms, CliError> {
    let wrong = |why: String| {
        CliError::invalid(
            format!("{}: {why}", path.display()),
            "write it as docs/formats/rotation-terms.md says",
        )
    };
    let file: TermsFile =
        serde_json::from_slice(&files::read(path)?).map_err(|error| wrong(error.to_string()))?;
    let name = parse_name(&file.name).map_err(|why| wrong(format!("name: {why}")))?;
    let provisioner = parse_name(&file.provisioner).map_err(|why| wrong(format!("provisioner: {why}")))?;
    if file.eids.is_empty() && file.eins.is_empty() {
        return Err(wrong("it names neither eids nor eins".to_owned()));
    }
    for eid in &file.eids {
        eid.parse::<Eid>().map_err(|error| wrong(format!("eids: {error}")))?;
    }
    for ein in &file.eins {
        ein.parse::<Ein>().map_err(|error| wrong(format!("eins: {error}")))?;
    }
    let security_domain = SecurityDomainArg::from_str(&file.security_domain, true)
        .map_err(|_| wrong("security_domain is isd-r or ecasd".to_owned()))?;
    let from_kvn = file.from_kvn.read().map_err(|why| wrong(format!("from_kvn: {why}")))?;
    let to_kvn = file.to_kvn.read().map_err(|why| wrong(format!("to_kvn: {why}")))?;
    let to_algorithm = Algorithm::from_str(&file.to_algorithm, true)
        .map_err(|_| wrong("to_algorithm is AES-128 or AES-256".to_owned()))?;
    Ok(RotationTerms {
        name,
        provisioner,
        eids: file.eids,
        eins: file.eins,
        from: Some(KeysetArgs { kvn: from_kvn, security_domain }.name()),
        to_key_version_number: to_kvn.into(),
        to_key_bits: to_algorithm.key_bits(),
        dialect: file.dialect.to_wire().into(),
        stages: file.stages,
        overlap_seconds: parse_duration_s(&file.overlap).map_err(|why| wrong(format!("overlap: {why}")))?,
        halt_failures_percent: file.halt_failures_percent,
        deletes_old_keys: file.delete_old_keys,
        channel: file.channel.map(|channel| channel.to_wire()).transpose().map_err(wrong)?,
    })
}

/// Every term in words; what this tool does not know stands out in capitals.
pub fn term_fields(terms: &RotationTerms) -> Vec<Field> {
    // Destructured without `..`: a term added to the contract does not compile until it is shown.
    let RotationTerms {
        name,
        provisioner,
        eids,
        eins,
        from,
        to_key_version_number,
        to_key_bits,
        dialect,
        stages,
        overlap_seconds,
        halt_failures_percent,
        channel,
        deletes_old_keys,
    } = terms;
    let list = |items: &[String]| items.iter().map(|item| printable(item)).collect::<Vec<_>>().join(", ");
    let mut devices = Vec::new();
    if !eids.is_empty() {
        devices.push(format!("{} single: {}", eids.len(), list(eids)));
    }
    if !eins.is_empty() {
        devices.push(format!("every device of {} that has the old keyset at the start", list(eins)));
    }
    let devices = if devices.is_empty() { "NONE NAMED".to_owned() } else { devices.join("; ") };
    let stages = if stages.is_empty() {
        "NONE".to_owned()
    } else {
        let percents: Vec<_> = stages.iter().map(|percent| format!("{percent} %")).collect();
        format!("{} of the devices", percents.join(", then "))
    };
    [
        ("rotation", printable(name)),
        ("provisioner", format!("{} fetches the scripts and loads the cards", printable(provisioner))),
        ("devices", devices),
        ("old_keyset", from.as_ref().map_or_else(|| "NO KEYSET NAMED".to_owned(), keyset_words)),
        (
            "new_keyset",
            format!("key version {}, {}", kvn_words(*to_key_version_number), bits_words(*to_key_bits)),
        ),
        ("put_key", dialect_words(*dialect)),
        ("stages", stages),
        (
            "overlap",
            format!(
                "the old keyset is served for {} after the new one was proved, then refused{}",
                duration_words(*overlap_seconds),
                if *deletes_old_keys { " and deleted from its card" } else { "; it stays on its card" }
            ),
        ),
        (
            "scripts",
            channel
                .as_ref()
                .map_or_else(|| "PUT KEY; the provisioner opens the channels".to_owned(), channel_words),
        ),
        ("halts", format!("when more than {halt_failures_percent} % of the devices that ended failed")),
    ]
    .map(|(name, value)| Field { name: name.to_owned(), value })
    .into()
}

/// A security domain by the name telecom people use.
pub fn domain_name(code: u32) -> String {
    match SecurityDomain::from_code(code) {
        Ok(SecurityDomain::IsdR) => "ISD-R".to_owned(),
        Ok(SecurityDomain::Ecasd) => "ECASD".to_owned(),
        Ok(SecurityDomain::MnoSd) => "MNO-SD".to_owned(),
        Err(_) => format!("UNKNOWN DOMAIN {code}"),
    }
}

/// `SCP03 keyset 0x30 of the ISD-R`.
pub fn keyset_words(name: &KeysetName) -> String {
    let protocol = match Protocol::from_code(name.protocol) {
        Ok(protocol) => protocol.as_str().to_uppercase(),
        Err(_) => format!("UNKNOWN PROTOCOL {}", name.protocol),
    };
    format!(
        "{protocol} keyset {} of the {}",
        Protocol::from_code(name.protocol)
            .and_then(|protocol| KeyVersionNumber::new(protocol, name.key_version_number))
            .map_or_else(
                |_| format!("{} (NOT OF THIS PROTOCOL)", name.key_version_number),
                |kvn| kvn.to_string()
            ),
        domain_name(name.security_domain)
    )
}

/// `0x31`.
pub fn kvn_words(number: u32) -> String {
    KeyVersionNumber::scp03(number).map_or_else(|_| format!("{number} (NOT OF SCP03)"), |kvn| kvn.to_string())
}

/// `AES-256`.
pub fn bits_words(bits: u32) -> String {
    KeysetAlgorithm::from_code(bits)
        .map_or_else(|_| format!("UNKNOWN KEY LENGTH {bits}"), |algorithm| algorithm.as_str().to_owned())
}

fn channel_words(channel: &ScriptChannel) -> String {
    let ScriptChannel { i_parameter, security_level, aid, first_sequence_counter } = channel;
    let domain = if aid.is_empty() { "the domain's own AID".to_owned() } else { hex::encode(aid) };
    format!(
        "carried over channels that the authority prepares: i {i_parameter:02x}, level {security_level:02x}, {domain}, first sequence counter {first_sequence_counter} where none is known"
    )
}

fn dialect_words(dialect: i32) -> String {
    match PutKeyDialect::try_from(dialect) {
        Ok(PutKeyDialect::A) => {
            "dialect A (GP Card Specification 2.3): the clear length stands in the block of a padded key only"
                .to_owned()
        }
        Ok(PutKeyDialect::B) => {
            "dialect B (older cards, Amendment D 1.1): the clear length always stands in the block".to_owned()
        }
        Ok(PutKeyDialect::Unspecified) => "NO DIALECT NAMED".to_owned(),
        Err(_) => format!("UNKNOWN DIALECT {dialect}"),
    }
}

/// `7 days`, `1 hour 30 minutes`.
pub fn duration_words(seconds: u32) -> String {
    let mut rest = seconds;
    let mut words = Vec::new();
    for (unit, length) in [("day", 86_400), ("hour", 3_600), ("minute", 60), ("second", 1)] {
        let count = rest / length;
        rest %= length;
        if count > 0 {
            words.push(format!("{count} {unit}{}", if count == 1 { "" } else { "s" }));
        }
    }
    if words.is_empty() { "no time".to_owned() } else { words.join(" ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"{"name":"r1","provisioner":"otaco","eins":["89049032"],"from_kvn":"0x30","to_kvn":49,
        "to_algorithm":"AES-256","stages":[1,100],"overlap":"7d","halt_failures_percent":5}"#;

    fn read(text: &str) -> Result<RotationTerms, CliError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("terms.json");
        std::fs::write(&path, text).unwrap();
        from_file(&path)
    }

    #[test]
    fn a_terms_file_says_what_the_contract_carries() {
        let terms = read(FILE).unwrap();
        assert_eq!((terms.name.as_str(), terms.to_key_version_number, terms.to_key_bits), ("r1", 0x31, 256));
        assert_eq!(terms.from.unwrap().key_version_number, 0x30);
        assert_eq!((terms.overlap_seconds, terms.dialect()), (604_800, PutKeyDialect::A));
        assert!(check(&terms).is_ok());
    }

    #[test]
    fn a_terms_file_with_a_mistake_is_refused_by_name() {
        for (from, to, named) in [
            ("0x30", "0x50", "from_kvn"),
            ("AES-256", "DES", "to_algorithm"),
            ("7d", "soon", "overlap"),
            ("\"eins\"", "\"ranges\"", "ranges"),
            ("89049032", "x", "eins"),
        ] {
            let error = read(&FILE.replacen(from, to, 1)).unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
    }

    #[test]
    fn stages_ascend_to_all_and_the_key_version_is_a_new_one() {
        let terms = read(FILE).unwrap();
        for stages in [vec![], vec![0, 100], vec![10, 10, 100], vec![50, 10, 100], vec![1, 50]] {
            assert!(check(&RotationTerms { stages, ..terms.clone() }).is_err());
        }
        assert!(check(&RotationTerms { to_key_version_number: 0x30, ..terms }).is_err());
    }

    #[test]
    fn what_no_rotation_may_be_is_refused_before_anybody_is_asked() {
        let terms = read(FILE).unwrap();
        for wrong in [
            RotationTerms { to_key_bits: 192, ..terms.clone() },
            RotationTerms { overlap_seconds: 90 * 86_400 + 1, ..terms.clone() },
            RotationTerms { halt_failures_percent: 0, ..terms.clone() },
            RotationTerms { halt_failures_percent: 101, ..terms.clone() },
        ] {
            assert!(check(&wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn durations_read_as_people_say_them() {
        assert_eq!(duration_words(604_800), "7 days");
        assert_eq!(duration_words(5_400), "1 hour 30 minutes");
        assert_eq!(duration_words(0), "no time");
    }
}
