//! The server side of a TLS 1.2 connection with a pre-shared key, up to the moment where the key is needed: an OTA platform that
//! has none and asks for the secret of each connection.

use std::io::{self, Read, Write};
use std::net::TcpStream;

use aws_lc_rs::digest::{self, SHA256, SHA384};
use aws_lc_rs::rand;
use keys::tls_psk;
use keys::tls_psk::{CipherSuite, Handshake, RecordProtection, Side};

const CHANGE_CIPHER_SPEC: u8 = 20;
const HANDSHAKE: u8 = 22;
const APPLICATION_DATA: u8 = 23;
const CLIENT_KEY_EXCHANGE: u8 = 16;
const EXTENDED_MASTER_SECRET: u16 = 23;
const ENCRYPT_THEN_MAC: u16 = 22;

/// A connection whose client has sent its Finished.
pub struct Waiting {
    stream: TcpStream,
    messages: Vec<u8>,
    /// What the client calls itself.
    pub identity: Vec<u8>,
    /// What the handshake has come to.
    pub handshake: Handshake,
    /// Whether encrypt-then-MAC was negotiated.
    pub encrypt_then_mac: bool,
    /// The client's Finished, as it came.
    pub finished: Vec<u8>,
}

/// A connection that is open.
pub struct Open {
    stream: TcpStream,
    client: RecordProtection,
    server: RecordProtection,
    encrypt_then_mac: bool,
    read: u64,
    written: u64,
}

/// Takes a client's handshake with this suite; with the extensions that it offers, or with none.
pub fn accept(mut stream: TcpStream, suite: CipherSuite, with_extensions: bool) -> io::Result<Waiting> {
    let mut messages = Vec::new();
    let hello = record(&mut stream, HANDSHAKE)?;
    messages.extend(&hello);
    let client_random: [u8; 32] = hello[6..38].try_into().unwrap();
    let offered = extensions(&hello);
    let mut server_random = [0; 32];
    rand::fill(&mut server_random).unwrap();

    let chosen: Vec<u16> = [EXTENDED_MASTER_SECRET, ENCRYPT_THEN_MAC]
        .into_iter()
        .filter(|extension| with_extensions && offered.contains(extension))
        .filter(|extension| *extension != ENCRYPT_THEN_MAC || suite.is_cbc())
        .collect();
    let mut body = vec![3, 3];
    body.extend(server_random);
    body.push(0);
    body.extend(suite.code().to_be_bytes());
    body.push(0);
    let listed: Vec<u8> = chosen.iter().flat_map(|one| [one.to_be_bytes(), [0, 0]].concat()).collect();
    // Renegotiation info, empty, is what every client wants to see.
    let listed = [&[0xff, 0x01, 0, 1, 0][..], &listed].concat();
    body.extend(u16::try_from(listed.len()).unwrap().to_be_bytes());
    body.extend(listed);
    let flight = [message(2, &body), message(14, &[])].concat();
    messages.extend(&flight);
    write_record(&mut stream, HANDSHAKE, &flight)?;

    let exchange = record(&mut stream, HANDSHAKE)?;
    assert_eq!(exchange[0], CLIENT_KEY_EXCHANGE);
    messages.extend(&exchange);
    let identity = exchange[6..].to_vec();
    record(&mut stream, CHANGE_CIPHER_SPEC)?;
    let finished = record(&mut stream, HANDSHAKE)?;
    let handshake = Handshake {
        suite,
        client_random,
        server_random,
        hash: hash(suite, &messages),
        extended_master_secret: chosen.contains(&EXTENDED_MASTER_SECRET),
    };
    let encrypt_then_mac = chosen.contains(&ENCRYPT_THEN_MAC);
    Ok(Waiting { stream, messages, identity, handshake, encrypt_then_mac, finished })
}

impl Waiting {
    /// Ends the handshake with the secret that was asked for.
    pub fn open(mut self, secret: &[u8; 48]) -> io::Result<Open> {
        let secret = tls_psk::MasterSecret::given(*secret, self.handshake.clone());
        let (client, server) =
            (secret.protection(Side::Client).unwrap(), secret.protection(Side::Server).unwrap());
        let theirs = client.open(0, HANDSHAKE, &self.finished, self.encrypt_then_mac).expect("a Finished");
        self.messages.extend(&*theirs);
        let suite = self.handshake.suite;
        let data = secret.verify_data(Side::Server, &hash(suite, &self.messages)).unwrap();
        write_record(&mut self.stream, CHANGE_CIPHER_SPEC, &[1])?;
        let finished = server.seal(0, HANDSHAKE, &message(20, &data), &iv(), self.encrypt_then_mac).unwrap();
        write_record(&mut self.stream, HANDSHAKE, &finished)?;
        Ok(Open {
            stream: self.stream,
            client,
            server,
            encrypt_then_mac: self.encrypt_then_mac,
            read: 1,
            written: 1,
        })
    }
}

impl Open {
    /// What the client says next.
    pub fn read(&mut self) -> io::Result<Vec<u8>> {
        let fragment = record(&mut self.stream, APPLICATION_DATA)?;
        let text = self.client.open(self.read, APPLICATION_DATA, &fragment, self.encrypt_then_mac);
        self.read += 1;
        Ok(text.expect("a record of the client").to_vec())
    }

    /// Says something.
    pub fn write(&mut self, text: &[u8]) -> io::Result<()> {
        let sealed =
            self.server.seal(self.written, APPLICATION_DATA, text, &iv(), self.encrypt_then_mac).unwrap();
        self.written += 1;
        write_record(&mut self.stream, APPLICATION_DATA, &sealed)
    }
}

fn hash(suite: CipherSuite, messages: &[u8]) -> Vec<u8> {
    let algorithm = if suite.hash_bytes() == 32 { &SHA256 } else { &SHA384 };
    digest::digest(algorithm, messages).as_ref().to_vec()
}

fn iv() -> [u8; 16] {
    let mut iv = [0; 16];
    rand::fill(&mut iv).unwrap();
    iv
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let [_, high, middle, low] = u32::try_from(body.len()).unwrap().to_be_bytes();
    [&[kind, high, middle, low][..], body].concat()
}

/// The fragment of the next record, which must be of this kind.
fn record(stream: &mut TcpStream, content: u8) -> io::Result<Vec<u8>> {
    let mut header = [0; 5];
    stream.read_exact(&mut header)?;
    let mut fragment = vec![0; usize::from(u16::from_be_bytes([header[3], header[4]]))];
    stream.read_exact(&mut fragment)?;
    if header[0] == content {
        Ok(fragment)
    } else {
        Err(io::Error::other(format!(
            "a record of content {} instead of {content}: {fragment:02x?}",
            header[0]
        )))
    }
}

fn write_record(stream: &mut TcpStream, content: u8, fragment: &[u8]) -> io::Result<()> {
    let length = u16::try_from(fragment.len()).unwrap().to_be_bytes();
    stream.write_all(&[&[content, 3, 3][..], &length, fragment].concat())
}

/// The numbers of the extensions of a ClientHello.
fn extensions(hello: &[u8]) -> Vec<u16> {
    let mut at = 38;
    at += 1 + usize::from(hello[at]);
    at += 2 + usize::from(u16::from_be_bytes([hello[at], hello[at + 1]]));
    at += 1 + usize::from(hello[at]);
    at += 2;
    let mut found = Vec::new();
    while at + 4 <= hello.len() {
        found.push(u16::from_be_bytes([hello[at], hello[at + 1]]));
        at += 4 + usize::from(u16::from_be_bytes([hello[at + 2], hello[at + 3]]));
    }
    found
}
