//! SCP80: secured packets over the air, in the form that short messages carry (ETSI TS 102 225 §5, 3GPP TS 31.115 §4).
//!
//! A command packet goes to an application (its TAR), protected by KIc and KID of a keyset and numbered by a counter that
//! the card accepts once. The card's answer, the proof of receipt, comes as a response packet. The keys are wherever they
//! are: both directions work over [`PacketKeys`].

mod command;
mod header;
mod keys;
mod response;
mod script;

pub use command::{CommandPacket, DATA_BYTES_MAX};
pub use header::{Counter, CounterCheck, Integrity, ProofOfReceipt, ReceiptWhen, Spi, Tar};
pub use keys::{PacketKeys, SoftwarePacketKeys};
pub use response::{ResponsePacket, ResponseStatus};
pub use script::{COMMANDS_MAX, CompactAnswer, ScriptFormat, secured_data};
