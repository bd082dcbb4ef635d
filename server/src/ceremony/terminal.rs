//! Components typed at the terminal: without echo, into memory that is zeroized.

use std::fs::OpenOptions;
use std::io::{self, Write as _};

use hsm::HsmError;
use hsm::ceremony::Component;
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use super::{parse_check_value, wrong};

/// 32 bytes in hex, with blanks between them.
const LINE_BYTES_MAX: usize = 256;

/// Asks for one component: who, the value twice blind, and its check value.
pub(super) fn component(number: usize) -> Result<(String, Component), HsmError> {
    let failed = |e: io::Error| wrong(&format!("the terminal cannot be used: {e}"));
    let mut terminal = OpenOptions::new().read(true).write(true).open("/dev/tty").map_err(failed)?;
    let mut ask = |question: &str, is_hidden: bool| -> io::Result<Zeroizing<String>> {
        write!(terminal, "component {number}, {question}: ")?;
        terminal.flush()?;
        let shown = tcgetattr(&terminal)?;
        if is_hidden {
            let mut hidden = shown.clone();
            hidden.local_modes.remove(LocalModes::ECHO);
            tcsetattr(&terminal, OptionalActions::Flush, &hidden)?;
        }
        let line = read_line(&mut terminal);
        tcsetattr(&terminal, OptionalActions::Now, &shown)?;
        if is_hidden {
            writeln!(terminal)?;
        }
        line
    };
    let custodian = ask("name of the custodian", false).map_err(failed)?;
    audit::Name::new(custodian.trim()).map_err(|e| wrong(&e.to_string()))?;
    let typed = ask("value in hex (not shown)", true).map_err(failed)?;
    let check_value = ask("its check value", false).map_err(failed)?;
    let check_value = parse_check_value(check_value.trim()).map_err(|e| wrong(&e))?;
    let mut digits = Zeroizing::new(Vec::with_capacity(LINE_BYTES_MAX));
    digits.extend(typed.bytes().filter(|byte| !byte.is_ascii_whitespace()));
    let mut value = Zeroizing::new(vec![0; digits.len() / 2]);
    hex::decode_to_slice(&digits[..], &mut value[..]).map_err(|_| wrong("a component is hex"))?;
    let name = custodian.trim().to_owned();
    let component = Component::new(&name, value, check_value);
    Ok((name, component))
}

/// Byte by byte, so that no buffer keeps what was typed.
fn read_line(terminal: &mut impl io::Read) -> io::Result<Zeroizing<String>> {
    let mut line = Zeroizing::new(String::with_capacity(LINE_BYTES_MAX));
    let mut byte = Zeroizing::new([0; 1]);
    loop {
        terminal.read_exact(&mut byte[..])?;
        match byte[0] {
            b'\n' => return Ok(line),
            _ if line.len() == LINE_BYTES_MAX => return Err(io::Error::other("the line is too long")),
            other if other.is_ascii() => line.push(char::from(other)),
            _ => return Err(io::Error::other("what was typed is not ASCII")),
        }
    }
}
