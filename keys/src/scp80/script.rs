//! The secured data of remote management: commands for an application, and its answer (ETSI TS 102 226 §5).

use crate::KeyError;
use crate::apdu::Apdu;

/// Most commands of one packet.
pub const COMMANDS_MAX: usize = 64;

/// Template of a command script, and one command in it (TS 101 220 tables 7.18 and 7.19).
const COMMAND_SCRIPT: u8 = 0xaa;
const COMMAND: u8 = 0x22;

/// How the commands of a packet are written.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ScriptFormat {
    /// One after the other, `CLA INS P1 P2 P3 [data]` (TS 102 226 §5.1). Every card reads it, but where a command ends
    /// follows from what the card takes P3 for; see [`secured_data`].
    Compact,
    /// Each in a TLV of its own, of definite length (§5.2). Nothing is left to the card.
    Expanded,
}

/// The secured data of these commands, none of which, whatever the card takes P3 for, is one that `may_run` refuses.
///
/// In the compact format a card that reads data where the command had none, or none where it had some, goes on at another
/// byte than we did: commands hidden in the data of others would run. So each place at which a card may begin to read is
/// looked at; only where the instruction settles what P3 is (SELECT, UPDATE, READ) there is but one.
pub fn secured_data(
    format: ScriptFormat,
    commands: &[Apdu],
    may_run: impl Fn(u8) -> bool,
) -> Result<Vec<u8>, KeyError> {
    if commands.is_empty() || commands.len() > COMMANDS_MAX {
        return Err(KeyError::Script("a packet has 1 to 64 commands"));
    }
    if commands.iter().any(|command| !may_run(command.ins)) {
        return Err(KeyError::Script("a command is not allowed"));
    }
    match format {
        ScriptFormat::Expanded => Ok(expanded(commands)),
        ScriptFormat::Compact => compact(commands, may_run),
    }
}

fn expanded(commands: &[Apdu]) -> Vec<u8> {
    let mut script = Vec::new();
    for command in commands {
        push_tlv(&mut script, COMMAND, &command.to_bytes());
    }
    let mut data = Vec::new();
    push_tlv(&mut data, COMMAND_SCRIPT, &script);
    data
}

fn compact(commands: &[Apdu], may_run: impl Fn(u8) -> bool) -> Result<Vec<u8>, KeyError> {
    let mut data = Vec::new();
    for command in commands {
        data.extend(command.header());
        match (command.data(), command.le) {
            ([], le) => data.push(le.unwrap_or(0)),
            (body, None) => {
                data.push(command.lc());
                data.extend_from_slice(body);
            }
            // Its Le would be the class of the next command.
            (_, Some(_)) => {
                return Err(KeyError::Script(
                    "a command of the compact format has data or Le, not both; fetch the answer by GET RESPONSE",
                ));
            }
        }
    }
    // Places are visited from the front; each leads further.
    let mut begins = vec![false; data.len() + 1];
    begins[0] = true;
    for at in 0..data.len() {
        // Fewer bytes than a header are no command.
        let (true, Some([cla, ins, _, _])) = (begins[at], data.get(at..at + 4)) else { continue };
        if !may_run(*ins) {
            return Err(KeyError::Script(
                "a card may read a command into the data of another: use the expanded format",
            ));
        }
        let (after, Some(p3)) = (at + 5, data.get(at + 4)) else { continue };
        let after_data = after + usize::from(*p3);
        let meaning = meaning_of_p3(*cla, *ins);
        if meaning != P3::DataLength {
            begins[after] = true;
        }
        if meaning != P3::AnswerLength && after_data < begins.len() {
            begins[after_data] = true;
        }
    }
    Ok(data)
}

/// What P3 is in the compact format.
#[derive(PartialEq, Eq)]
enum P3 {
    DataLength,
    AnswerLength,
    Either,
}

/// Of the commands that ISO 7816-4 and TS 102 221 §11 define alike for every card.
const fn meaning_of_p3(cla: u8, ins: u8) -> P3 {
    if !matches!(cla, 0x00 | 0xa0 | 0x80) {
        return P3::Either;
    }
    match ins {
        // SELECT, UPDATE BINARY, UPDATE RECORD.
        0xa4 | 0xd6 | 0xdc => P3::DataLength,
        // READ BINARY, READ RECORD, GET RESPONSE.
        0xb0 | 0xb2 | 0xc0 => P3::AnswerLength,
        _ => P3::Either,
    }
}

/// BER-TLV with a definite length.
fn push_tlv(target: &mut Vec<u8>, tag: u8, value: &[u8]) {
    target.push(tag);
    match value.len() {
        length @ 0..=0x7f => target.push(length as u8),
        length @ 0x80..=0xff => target.extend([0x81, length as u8]),
        length => {
            let [high, low] = u16::try_from(length).expect("64 commands are below 64 KiB").to_be_bytes();
            target.extend([0x82, high, low]);
        }
    }
    target.extend_from_slice(value);
}

/// The answer to commands in the compact format (TS 102 226 §5.1.2).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CompactAnswer {
    /// How many commands were run.
    pub commands: u8,
    /// Status word of the last one.
    pub status_word: [u8; 2],
    /// Its data.
    pub data: Vec<u8>,
}

impl CompactAnswer {
    /// Reads the data of a response packet; none when it is shorter than such an answer.
    pub fn parse(data: &[u8]) -> Option<Self> {
        let ([commands, high, low], data) = data.split_first_chunk::<3>()?;
        Some(Self { commands: *commands, status_word: [*high, *low], data: data.to_vec() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apdu(text: &str) -> Apdu {
        Apdu::parse(&hex::decode(text).unwrap()).unwrap()
    }

    fn of(format: ScriptFormat, commands: &[&str], allowed: &[u8]) -> Result<String, KeyError> {
        let commands: Vec<Apdu> = commands.iter().map(|text| apdu(text)).collect();
        secured_data(format, &commands, |ins| allowed.contains(&ins)).map(hex::encode)
    }

    #[test]
    fn expanded_scripts_are_those_of_other_software() {
        // osmocom pySim, tests/unittests/test_ota.py.
        let one = of(ScriptFormat::Expanded, &["80f24002024f0000"], &[0xf2]);
        assert_eq!(one.unwrap(), "aa0a220880f24002024f0000");
        let two = of(ScriptFormat::Expanded, &["80f24002024f0000", "00a40004023f0000"], &[0xf2, 0xa4]);
        assert_eq!(two.unwrap(), "aa14220880f24002024f0000220800a40004023f0000");
        let long = format!("80f24000c3{}", "5a".repeat(195));
        let long = of(ScriptFormat::Expanded, &[&long], &[0xf2]).unwrap();
        assert!(long.starts_with("aa81cb2281c880f24000c3"));
    }

    #[test]
    fn a_compact_script_is_its_commands_one_after_the_other() {
        let script = of(ScriptFormat::Compact, &["00a40004023f00", "00b000000a"], &[0xa4, 0xb0]);
        assert_eq!(script.unwrap(), "00a40004023f0000b000000a");
        // P3 is there even when there is neither data nor an answer.
        assert_eq!(of(ScriptFormat::Compact, &["00440000"], &[0x44]).unwrap(), "0044000000");
    }

    #[test]
    fn no_command_is_hidden_in_the_data_of_another() {
        // READ BINARY whose "data" is a PUT KEY: a card takes P3 for Le and goes on behind it.
        let hidden = ["00b0000005", "80d8003081"].concat();
        assert!(of(ScriptFormat::Compact, &[&hidden], &[0xb0]).is_err());
        // A command without data that a card may take for one with some: it eats the head of the next one.
        let eats = ["80f2000007", "00d600000a010280d8003081010203"];
        assert!(of(ScriptFormat::Compact, &eats, &[0xf2, 0xd6]).is_err());
        // An Le where the next class is expected.
        assert!(of(ScriptFormat::Compact, &["80f24000024f0000", "00a40004023f00"], &[0xf2, 0xa4]).is_err());
        // In a TLV each they are what they say.
        assert!(of(ScriptFormat::Expanded, &[&hidden], &[0xb0]).is_ok());
        assert!(of(ScriptFormat::Expanded, &["80d8003000"], &[0xb0]).is_err());
    }

    #[test]
    fn a_script_has_one_to_64_commands() {
        assert!(of(ScriptFormat::Expanded, &[], &[]).is_err());
        assert!(of(ScriptFormat::Expanded, &["80f20000"; 64], &[0xf2]).is_ok());
        assert!(of(ScriptFormat::Expanded, &["80f20000"; 65], &[0xf2]).is_err());
    }

    #[test]
    fn a_compact_answer_is_read() {
        let answer = CompactAnswer::parse(&[1, 0x61, 0x32]).unwrap();
        assert_eq!((answer.commands, answer.status_word, answer.data.len()), (1, [0x61, 0x32], 0));
        assert_eq!(CompactAnswer::parse(&[1, 0x61]), None);
    }
}
