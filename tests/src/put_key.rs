//! PUT KEY as a card reads it (GP Card Specification §11.8), for three AES keys at once.

use crate::aes::AesKey;
use crate::card::StatusWord;
use crate::channel::Apdu;
use crate::transport::PersonalisationData;

/// How the card wants the length of a key written; it refuses the other way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PutKeyDialect {
    /// A clear-key-length byte only before a padded key (GP Card Specification table 11-71).
    A,
    /// A clear-key-length byte always.
    B,
}

/// What the card does with keys that pass its checks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PutKeyBehaviour {
    /// Loads them and answers their check values.
    Honest,
    /// Loads Key-ENC with a flipped bit, as a card whose memory fails, and answers what it then has: the first check
    /// value is wrong, and the card cryptogram, which Key-ENC has no part in, is right.
    WrongCheckValue,
    /// Answers the check values it was sent and loads nothing.
    EchoWithoutLoading,
}

/// The keys of one PUT KEY, decrypted and checked.
pub(crate) struct NewKeyset {
    pub(crate) kvn: u8,
    /// Key-ENC, Key-MAC, Key-DEK.
    pub(crate) keys: [Vec<u8>; 3],
}

impl NewKeyset {
    /// Decrypts the keys with the static DEK of the open channel's keyset and compares every check value.
    pub(crate) fn read(data: &[u8], dialect: PutKeyDialect, dek: &AesKey) -> Result<Self, StatusWord> {
        let mut rest = data;
        let [kvn @ 0x30..=0x3f] = *take(&mut rest, 1)? else { return Err(StatusWord::INCORRECT_DATA) };
        let keys = [
            read_key(&mut rest, dialect, dek)?,
            read_key(&mut rest, dialect, dek)?,
            read_key(&mut rest, dialect, dek)?,
        ];
        if !rest.is_empty() || keys.iter().any(|key| key.len() != keys[0].len()) {
            return Err(StatusWord::INCORRECT_DATA);
        }
        Ok(Self { kvn, keys })
    }

    /// `KVN || KCV x 3`.
    pub(crate) fn answer(&self) -> Vec<u8> {
        let mut answer = vec![self.kvn];
        for key in &self.keys {
            answer.extend(AesKey::new(key).expect("the length was checked").check_value());
        }
        answer
    }
}

/// `88 || length || [clear key length] || block || 03 || KCV(3)`.
fn read_key(rest: &mut &[u8], dialect: PutKeyDialect, dek: &AesKey) -> Result<Vec<u8>, StatusWord> {
    let [key_type, length] = *take(rest, 2)? else { return Err(StatusWord::INCORRECT_DATA) };
    if key_type != 0x88 {
        return Err(StatusWord::ALGORITHM_NOT_SUPPORTED);
    }
    let mut block = take(rest, usize::from(length))?;
    let clear_length = match (dialect, block.len() % 16) {
        (PutKeyDialect::A, 0) => block.len(),
        (PutKeyDialect::A | PutKeyDialect::B, 1) => usize::from(take(&mut block, 1)?[0]),
        _ => return Err(StatusWord::INCORRECT_DATA),
    };
    // In dialect A the byte is there for a padded key only.
    let is_padded = clear_length != block.len();
    if clear_length.next_multiple_of(16) != block.len()
        || dialect == PutKeyDialect::A && length % 16 == 1 && !is_padded
    {
        return Err(StatusWord::INCORRECT_DATA);
    }
    let mut key = dek.cbc_decrypt([0; 16], block.to_vec()).ok_or(StatusWord::INCORRECT_DATA)?;
    key.truncate(clear_length);
    let check_value = AesKey::new(&key).ok_or(StatusWord::INCORRECT_DATA)?.check_value();
    let [0x03, sent @ ..] = take(rest, 4)? else { return Err(StatusWord::INCORRECT_DATA) };
    if *sent == check_value { Ok(key) } else { Err(StatusWord::INVALID_CHECK_VALUE) }
}

fn take<'d>(rest: &mut &'d [u8], len: usize) -> Result<&'d [u8], StatusWord> {
    let (taken, left) = rest.split_at_checked(len).ok_or(StatusWord::INCORRECT_DATA)?;
    *rest = left;
    Ok(taken)
}

/// What a card that holds `old` has after a PUT KEY in clear of dialect A: the keys as it decrypts them. `None` for a
/// command that it would refuse.
pub fn keyset_of(old: &PersonalisationData, command: &[u8]) -> Option<PersonalisationData> {
    let command = Apdu::parse(command)?;
    let dek = AesKey::new(&old.dek)?;
    let NewKeyset { kvn, keys: [enc, mac, dek] } =
        NewKeyset::read(&command.data, PutKeyDialect::A, &dek).ok()?;
    Some(PersonalisationData { eid: old.eid, kvn, enc, mac, dek })
}
