//! What the HSM layer costs beside the token: `cargo run -p hsm --example measure [jobs]`.
//!
//! Makes a SoftHSM token in memory, runs session-key jobs, an order and a rotation on one worker, and prints CPU microseconds per
//! unit in the daemon's and the worker's process, and how much of the latter is inside C_* calls.

#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a measuring tool, not part of the product")]

use std::process::ExitCode;
use std::time::{Duration, Instant};

use aws_lc_rs::agreement::{ECDH_P256, PrivateKey};
use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::key_wrap::{AES_256, AesKek, KeyWrapPadded};
use aws_lc_rs::rsa::{KeySize, OAEP_SHA1_MGF1SHA1, OaepPrivateDecryptingKey, PrivateDecryptingKey};
use domain::{
    Curve, DeviceKeyset, Eid, KeyVersionNumber, KeysetAlgorithm, PrincipalId, Protocol, SecurityDomain,
};
use hsm::ceremony::Ceremony;
use hsm::{
    CallOptions, CardProof, CardProofJob, CardSession, Delivery, Digest, KeyRole, OrderChunk, OrderChunkJob,
    OrderKeys, PUT_KEY_DEVICES_MAX, Priority, PutKeyDevice, PutKeyJob, SessionContext, SessionKeysJob,
    SessionKeysOutcome, SourcedKeyset, Token, TokenConfig, WorkerCommand,
};
use keys::scp03::{CardChallenge, Challenges, HostChallenge, session_keys};
use keys::{SecretKey, SoftwareKey};

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some("hsm-worker") => hsm::worker::run(),
        Some("ceremony") => hsm::ceremony::run_child(),
        jobs => {
            let jobs = jobs.map_or(2_000, |n| n.parse().unwrap());
            tokio::runtime::Builder::new_multi_thread().build().unwrap().block_on(measure(jobs));
            ExitCode::SUCCESS
        }
    }
}

async fn measure(jobs: usize) {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let path = |name: &str| dir.path().join(name);
    std::fs::create_dir(path("tokens")).unwrap();
    std::fs::write(path("conf"), hsm::softhsm::configuration(&path("tokens"))).unwrap();
    for pin in ["pin", "so-pin"] {
        use std::os::unix::fs::PermissionsExt;
        std::fs::write(path(pin), "123456").unwrap();
        std::fs::set_permissions(path(pin), std::fs::Permissions::from_mode(0o600)).unwrap();
    }
    let config = TokenConfig {
        name: "measure".into(),
        module: hsm::softhsm::module().unwrap(),
        token_label: "measure".into(),
        token_serial: None,
        pin_file: path("pin"),
        environment: vec![("SOFTHSM2_CONF".into(), path("conf").display().to_string())],
        lock_file: path("lock"),
        workers: 1,
        threads_per_worker: 1,
        queue_depth_max: 4096,
        injected_delay_us: 0,
        session_objects_max: hsm::SESSION_OBJECTS_MAX,
        inside_only: false,
    };
    let command =
        |arg: &str| WorkerCommand { program: std::env::current_exe().unwrap(), args: vec![arg.to_owned()] };
    let keys: Vec<_> = {
        let mut ceremony = Ceremony::start(config.clone(), &command("ceremony")).unwrap();
        ceremony.init_token(&path("so-pin")).unwrap();
        [KeyRole::Master, KeyRole::CertificateIssuer(Curve::P256)]
            .map(|role| ceremony.create_key(role, "measure", 1).unwrap().registered())
            .into()
    };
    let token = Token::start(config, keys.clone(), command("hsm-worker")).await.unwrap();
    let recipient = PrivateKey::generate(&ECDH_P256).unwrap().compute_public_key().unwrap();
    let manufacturer = PrivateDecryptingKey::generate(KeySize::Rsa3072).unwrap();
    let eid = Eid::from_body("890490320000000000000000000001").unwrap();
    let kvn = KeyVersionNumber::scp03(0x30).unwrap();

    let keyset = |kvn, algorithm| {
        let keyset = DeviceKeyset {
            eid,
            protocol: Protocol::Scp03,
            security_domain: SecurityDomain::IsdR,
            kvn: KeyVersionNumber::scp03(kvn).unwrap(),
            algorithm,
        };
        SourcedKeyset::derived(keys[0].key.clone(), keyset)
    };

    let order = OrderChunkJob {
        format: domain::OrderFormat::JsonlKwp,
        keys: OrderKeys::Derived { master: keys[0].key.clone() },
        protocol: Protocol::Scp03,
        security_domain: SecurityDomain::IsdR,
        kvn,
        algorithm: KeysetAlgorithm::Aes128,
        recipient_spki: manufacturer.public_key().as_der().unwrap().as_ref().to_vec(),
        eids: vec![eid; 1_000],
    };
    let challenges = Challenges { host: HostChallenge([1; 8]), card: CardChallenge([2; 8]) };
    let one = OrderChunkJob { eids: vec![eid], ..order.clone() };
    let card = card_cryptogram(&token.order_chunk(one, options()).await.unwrap(), manufacturer, &challenges);
    let session = SessionKeysJob {
        keyset: keyset(0x30, KeysetAlgorithm::Aes128),
        session: CardSession::Present {
            host_challenge: challenges.host.0.to_vec(),
            card_challenge: challenges.card.0.to_vec(),
            card_cryptogram: card.to_vec(),
            origin: None,
        },
        context: SessionContext { principal: PrincipalId([0; 32]), request_id: b"measure".to_vec() },
        delivery: Delivery::Sealed { recipient: Box::new(recipient.as_ref().try_into().unwrap()) },
    };
    let issuer = keys[1].key.clone();
    let sign = |token: Token| {
        let issuer = issuer.clone();
        async move {
            token.sign(&issuer, &[Digest::sha256([5; 32])], options()).await.unwrap();
        }
    };
    let release = |token: Token| {
        let session = session.clone();
        async move {
            let outcome = token.session_keys(session, options()).await.unwrap();
            assert!(matches!(outcome, SessionKeysOutcome::Released { .. }));
        }
    };
    for callers in [1, 32] {
        run(&token, &format!("P-256 signature, {callers} at once"), jobs, callers, &sign).await;
        run(&token, &format!("session keys, {callers} at once"), jobs, callers, &release).await;
    }
    let before = Cost::now(&token);
    token.order_chunk(order, options()).await.unwrap();
    before.print(&token, "order line (chunk of 1,000)", 1_000);

    // AES-128 to AES-256. The first job also fills the cache of constant blocks.
    let device = PutKeyDevice {
        old: keyset(0x30, KeysetAlgorithm::Aes128),
        new: keyset(0x31, KeysetAlgorithm::Aes256),
    };
    let rotation = PutKeyJob { devices: vec![device; PUT_KEY_DEVICES_MAX] };
    token.put_key(rotation.clone(), options()).await.unwrap();
    let before = Cost::now(&token);
    for _ in 0..10 {
        token.put_key(rotation.clone(), options()).await.unwrap();
    }
    before.print(&token, "PUT KEY 128 to 256 (batches of 200)", 10 * PUT_KEY_DEVICES_MAX);
    let proof = CardProof {
        keyset: session.keyset.clone(),
        host_challenge: challenges.host.0,
        card_challenge: challenges.card.0,
        card_cryptogram: card,
    };
    let before = Cost::now(&token);
    for _ in 0..50 {
        let job = CardProofJob { proofs: vec![proof.clone(); 100] };
        assert!(token.card_proofs(job, options()).await.unwrap().iter().all(|proved| *proved));
    }
    before.print(&token, "card proof (batches of 100)", 50 * 100);
    token.shutdown().await;
}

/// What the card of the only device would answer.
fn card_cryptogram(
    chunk: &OrderChunk,
    manufacturer: PrivateDecryptingKey,
    challenges: &Challenges,
) -> [u8; 8] {
    let rsa = OaepPrivateDecryptingKey::new(manufacturer).unwrap();
    let mut buffer = vec![0; rsa.min_output_size()];
    let transport =
        rsa.decrypt(&OAEP_SHA1_MGF1SHA1, &chunk.wrapped_transport_key, &mut buffer, None).unwrap();
    let unwrap = |blob: &[u8]| {
        let mut buffer = [0; 64];
        let transport = AesKek::new(&AES_256, transport).unwrap();
        SoftwareKey::new(
            &SecretKey::from_slice(transport.unwrap_with_padding(blob, &mut buffer).unwrap()).unwrap(),
        )
    };
    let (enc, mac) = (unwrap(&chunk.devices[0].keys[0].wrapped), unwrap(&chunk.devices[0].keys[1].wrapped));
    let Ok(keys) = session_keys(&enc, &mac, KeysetAlgorithm::Aes128, challenges);
    keys.danger_without_card_proof().card_cryptogram(challenges).0
}

fn options() -> CallOptions {
    CallOptions { deadline: Instant::now() + Duration::from_secs(60), priority: Priority::Normal }
}

async fn run<F: Future<Output = ()> + Send + 'static>(
    token: &Token,
    what: &str,
    jobs: usize,
    callers: usize,
    job: &impl Fn(Token) -> F,
) {
    job(token.clone()).await;
    let before = Cost::now(token);
    let mut running = tokio::task::JoinSet::new();
    for _ in 0..jobs {
        if running.len() == callers {
            running.join_next().await.unwrap().unwrap();
        }
        running.spawn(job(token.clone()));
    }
    running.join_all().await;
    before.print(token, what, jobs);
}

struct Cost {
    at: Instant,
    daemon_us: f64,
    worker_us: f64,
    inside_us: u64,
    calls: u64,
}

impl Cost {
    fn now(token: &Token) -> Self {
        let counters = token.counters();
        Self {
            at: Instant::now(),
            daemon_us: cpu_us("self"),
            worker_us: cpu_us(&token.worker_pids()[0].to_string()),
            inside_us: counters.busy_us,
            calls: counters.pkcs11_calls,
        }
    }

    fn print(&self, token: &Token, what: &str, units: usize) {
        let now = Self::now(token);
        let each = |us: f64| us / units as f64;
        println!(
            "{what:34} wall {:7.1}  daemon cpu {:6.1}  worker cpu {:6.1}  inside C_* (wall) {:6.1}  calls {:5.1}",
            each(self.at.elapsed().as_micros() as f64),
            each(now.daemon_us - self.daemon_us),
            each(now.worker_us - self.worker_us),
            each((now.inside_us - self.inside_us) as f64),
            each((now.calls - self.calls) as f64),
        );
    }
}

/// CPU time of a process so far, all threads, from the scheduler's clock.
fn cpu_us(pid: &str) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat[stat.rfind(')').unwrap()..].split_whitespace().collect();
    // utime and stime, in ticks of 10 ms.
    (fields[12].parse::<f64>().unwrap() + fields[13].parse::<f64>().unwrap()) * 10_000.0
}
