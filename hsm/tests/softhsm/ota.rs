//! Packets and scripts for cards: what the token makes is what independent software reads, and the other way round.

use aws_lc_rs::cipher::{
    self, DecryptingKey, DecryptionContext, EncryptingKey, EncryptionContext, UnboundCipherKey,
};
use aws_lc_rs::iv::FixedLength;
use domain::{KeyVersionNumber, KeysetAlgorithm, Protocol};
use hsm::{
    ErrorClass, KeyRef, KeyRole, OTA_ITEMS_MAX, OtaJob, OtaOutcome, OtaWork, PreparedChannel, SequenceOrigin,
    SourcedKeyset, Token,
};
use keys::scp80::{CommandPacket, Counter, Integrity, ProofOfReceipt, ReceiptWhen, ResponseStatus, Spi, Tar};

use crate::model::{HOST, Manufacturer, device, keyset, mac, order, scp03, scp03_over};
use crate::support::{Fixture, soon};

/// Keyset 3 of SCP80 of device 1: KIc and KID in clear, as its manufacturer has them.
async fn packet_keys(
    token: &Token,
    master: &KeyRef,
    algorithm: KeysetAlgorithm,
    manufacturer: &Manufacturer,
) -> [Vec<u8>; 3] {
    let mut job = order(master, algorithm, &manufacturer.spki, 1);
    (job.protocol, job.kvn) = (Protocol::Scp80, kvn());
    manufacturer.unwrap(&token.order_chunk(job, soon()).await.unwrap()).swap_remove(0)
}

fn kvn() -> KeyVersionNumber {
    KeyVersionNumber::new(Protocol::Scp80, 3).unwrap()
}

fn scp80(master: &KeyRef, algorithm: KeysetAlgorithm) -> SourcedKeyset {
    let mut identity = keyset(1, 0x30, algorithm);
    (identity.protocol, identity.kvn) = (Protocol::Scp80, kvn());
    SourcedKeyset::derived(master.clone(), identity)
}

fn spi() -> Spi {
    Spi::from_bytes([0x16, 0x39]).unwrap()
}

fn unbound(key: &[u8]) -> UnboundCipherKey {
    let algorithm = match key.len() {
        16 => &cipher::AES_128,
        24 => &cipher::AES_192,
        _ => &cipher::AES_256,
    };
    UnboundCipherKey::new(algorithm, key).unwrap()
}

fn decipher(key: &[u8], data: &[u8]) -> Vec<u8> {
    let mut data = data.to_vec();
    let iv = DecryptionContext::Iv128(FixedLength::from([0; 16]));
    DecryptingKey::cbc(unbound(key)).unwrap().decrypt(&mut data, iv).unwrap().to_vec()
}

fn cipher(key: &[u8], data: &[u8]) -> Vec<u8> {
    let mut data = data.to_vec();
    let iv = EncryptionContext::Iv128(FixedLength::from([0; 16]));
    EncryptingKey::cbc(unbound(key)).unwrap().less_safe_encrypt(&mut data, iv).unwrap();
    data
}

async fn one(token: &Token, keyset: SourcedKeyset, work: OtaWork) -> OtaOutcome {
    token.ota(OtaJob { items: vec![(keyset, work)] }, soon()).await.unwrap().swap_remove(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_card_reads_packets_and_its_answers_open_for_every_key_length() {
    let fixture = Fixture::new("kms");
    let keys = fixture.create_all(&[KeyRole::Master]);
    let token = fixture.start(&keys).await.unwrap();
    let manufacturer = Manufacturer::new();
    let master = &keys[0].key;
    for algorithm in [KeysetAlgorithm::Aes128, KeysetAlgorithm::Aes192, KeysetAlgorithm::Aes256] {
        let [kic, kid, _] = packet_keys(&token, master, algorithm, &manufacturer).await;
        let packet = CommandPacket::new(
            spi(),
            kvn(),
            Tar([0xb0, 0, 0x10]),
            Counter::new(0x0102).unwrap(),
            b"commands for the card".to_vec(),
        );
        let OtaOutcome::Packet(made) =
            one(&token, scp80(master, algorithm), OtaWork::Packet(packet.unwrap())).await
        else {
            panic!("no packet")
        };
        let (head, body) = made.split_at(10);
        assert_eq!(head[2..], [21, 0x16, 0x39, 0x32, 0x32, 0xb0, 0, 0x10]);
        assert_eq!(usize::from(head[1]) + 2, made.len());
        let body = decipher(&kic, body);
        assert_eq!(body[..6], [0, 0, 0, 1, 2, 13]);
        assert_eq!(&body[14..35], b"commands for the card");
        assert_eq!(body[6..14], mac(&kid, &[head, &body[..6], &body[14..]].concat())[..8]);

        // The card's answer, ciphered and with its checksum.
        let head = [0, 36, 18, 0xb0, 0, 0x10];
        let (numbered, data) = ([0, 0, 0, 1, 2, 14, 0], [&[1, 0x90, 0][..], &[0; 14]].concat());
        let check = mac(&kid, &[&[2, 0x71, 0][..], &head, &numbered, &data].concat());
        let clear = [&numbered[..], &check[..8], &data].concat();
        let answer = [&head[..], &cipher(&kic, &clear)].concat();
        let open = |packet: Vec<u8>| OtaWork::OpenResponse { packet, receipt: spi().receipt };
        let OtaOutcome::Response(response) =
            one(&token, scp80(master, algorithm), open(answer.clone())).await
        else {
            panic!("does not open")
        };
        assert_eq!((response.counter, response.status), (0x0102, ResponseStatus::OK));
        assert_eq!(response.data, [1, 0x90, 0]);
        let mut changed = answer;
        *changed.last_mut().unwrap() ^= 1;
        let outcome = one(&token, scp80(master, algorithm), open(changed)).await;
        assert_eq!(outcome, OtaOutcome::NotAuthentic);
    }
    token.shutdown().await;
}

fn channel(counter: u8, level: u8) -> PreparedChannel {
    PreparedChannel {
        host_challenge: HOST.to_vec(),
        origin: SequenceOrigin { counter: [0, 0, counter], aid: vec![0xa0, 0, 0, 1, 0x51] },
        level,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_is_that_of_the_card_that_will_answer_and_its_answers_open() {
    let fixture = Fixture::new("kms");
    let keys = fixture.create_all(&[KeyRole::Master]);
    let token = fixture.start(&keys).await.unwrap();
    let manufacturer = Manufacturer::new();
    let master = &keys[0].key;
    let algorithm = KeysetAlgorithm::Aes256;
    let ([enc, mac_key, _], _) = device(&token, master, algorithm, &manufacturer).await;
    let of_device = || SourcedKeyset::derived(master.clone(), keyset(1, 0x30, algorithm));
    let commands = vec![vec![0x80, 0xf2, 0x40, 0, 2, 0x4f, 0, 0], vec![0x80, 0xca, 0, 0xe0, 0]];
    let work = OtaWork::Script { channel: channel(9, 0x11), commands: commands.clone() };
    let OtaOutcome::Script(script) = one(&token, of_device(), work).await else { panic!("no script") };
    // What the card computes.
    let origin = [&[0, 0, 9][..], &[0xa0, 0, 0, 1, 0x51]].concat();
    let card: [u8; 8] = scp03_over(&enc, 0x02, 64, &origin).try_into().unwrap();
    assert_eq!(script.card_challenge, card);
    let s_mac = scp03(&mac_key, 0x06, 256, &HOST, &card);
    assert_eq!(script.card_cryptogram, scp03(&s_mac, 0x00, 64, &HOST, &card));
    let host_cryptogram = scp03(&s_mac, 0x01, 64, &HOST, &card);
    let mut chain = vec![0; 16];
    let mut next = |message: &[u8]| {
        chain = mac(&s_mac, &[&chain[..], message].concat());
        chain.clone()
    };
    let head = [&[0x84, 0x82, 0x11, 0, 0x10][..], &host_cryptogram].concat();
    assert_eq!(script.external_authenticate, [&head[..], &next(&head)[..8]].concat());
    let head = [0x84, 0xf2, 0x40, 0, 10, 0x4f, 0];
    assert_eq!(script.commands[0], [&head[..], &next(&head)[..8], &[0]].concat());
    let after_first = chain.clone();
    // The card's answer to the first command.
    let s_rmac = scp03(&mac_key, 0x07, 256, &HOST, &card);
    let r_mac = mac(&s_rmac, &[&after_first[..], b"data", &[0x90, 0]].concat());
    let answer = [&b"data"[..], &r_mac[..8], &[0x90, 0]].concat();
    let open = |counter, wrapped: &[u8], answer: &[u8]| OtaWork::OpenAnswers {
        channel: channel(counter, 0x11),
        wrapped: vec![wrapped.to_vec()],
        answers: vec![answer.to_vec()],
    };
    let OtaOutcome::Answers(opened) = one(&token, of_device(), open(9, &script.commands[0], &answer)).await
    else {
        panic!("does not open")
    };
    assert_eq!((&opened[0].data[..], opened[0].is_proved), (&b"data"[..], true));
    for other in [
        open(8, &script.commands[0], &answer),
        open(9, &script.commands[1], &answer),
        open(9, &commands[0], &answer),
        open(9, &script.commands[0], b"data12345678\x90\x00"),
    ] {
        assert_eq!(one(&token, of_device(), other).await, OtaOutcome::NotAuthentic);
    }
    let too_long = OtaWork::Script {
        channel: channel(9, 0x11),
        commands: vec![[&[0x80, 0xe2, 0, 0, 0xff][..], &[0; 255]].concat()],
    };
    assert!(matches!(one(&token, of_device(), too_long).await, OtaOutcome::Refused(_)));
    token.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keysets_do_the_work_of_their_own_protocol_only() {
    let fixture = Fixture::new("kms");
    let keys = fixture.create_all(&[KeyRole::Master]);
    let token = fixture.start(&keys).await.unwrap();
    let master = &keys[0].key;
    let algorithm = KeysetAlgorithm::Aes128;
    let of_scp03 = || SourcedKeyset::derived(master.clone(), keyset(1, 0x30, algorithm));
    let receipt = |integrity| ProofOfReceipt {
        when: ReceiptWhen::Always,
        integrity,
        is_ciphered: true,
        by_submit: false,
    };
    let open = |integrity| OtaWork::OpenResponse { packet: vec![0; 40], receipt: receipt(integrity) };
    let script = OtaWork::Script { channel: channel(1, 0x01), commands: Vec::new() };
    let wrong_level = OtaWork::Script { channel: channel(1, 0x02), commands: Vec::new() };
    for (keyset, work) in [
        (of_scp03(), open(Integrity::Checksum)),
        (scp80(master, algorithm), script),
        (scp80(master, algorithm), open(Integrity::None)),
        (scp80(master, algorithm), open(Integrity::RedundancyCheck)),
        (of_scp03(), wrong_level),
    ] {
        let error = token.ota(OtaJob { items: vec![(keyset, work)] }, soon()).await.unwrap_err();
        assert_eq!(error.class, ErrorClass::Caller, "{error}");
    }
    let many = (0..=OTA_ITEMS_MAX).map(|_| (scp80(master, algorithm), open(Integrity::Checksum)));
    let error = token.ota(OtaJob { items: many.collect() }, soon()).await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Caller);
    token.shutdown().await;
}
