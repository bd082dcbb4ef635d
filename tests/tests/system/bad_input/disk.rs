//! A full disk under the log: nothing more is acknowledged, the daemon ends and says why, and with room it goes on.
//!
//! The kernel's own "no space left" needs a small file system, which takes the right to mount one; each single write that
//! can fail is tried by injection in the tests of `store`.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use audit::{EventType, Outcome};
use proto::v1::order_line::Key;
use proto::v1::order_line_result::Result as LineResult;
use proto::v1::order_service_client::OrderServiceClient;
use proto::v1::session_key_service_client::SessionKeyServiceClient;
use tests::card::CryptogramBehaviour;
use tonic::Code;
use tonic_types::StatusExt;

use super::{PATIENCE, count, place, with_key};
use crate::caller::reason;
use crate::devices::{eid, new_public_key};
use crate::support::{Deployment, GRANTED, ISSUER, PURPOSE};

/// Room for the log, its view and the reserve of 64 MiB, and little more.
const LOG_SIZE: &str = "size=112m";
/// Room for a few order outputs.
const ORDERS_SIZE: &str = "size=1m";

/// A file system of its own under a folder, until dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Puts what is in the folder on a small disk; an error where this process may not mount.
    fn under(folder: &Path, size: &str) -> Result<Self, String> {
        let aside = folder.with_extension("aside");
        fs::rename(folder, &aside).unwrap();
        fs::create_dir(folder).unwrap();
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", size, "tmpfs"]).arg(folder).output().unwrap();
        if !mounted.status.success() {
            return Err(format!("no small disk: {}", String::from_utf8_lossy(&mounted.stderr).trim()));
        }
        let disk = Self(folder.to_owned());
        let mut mode = fs::metadata(folder).unwrap().permissions();
        std::os::unix::fs::PermissionsExt::set_mode(&mut mode, 0o700);
        fs::set_permissions(folder, mode).unwrap();
        let copied = Command::new("cp").arg("-a").arg(aside.join(".")).arg(folder).status().unwrap();
        assert!(copied.success());
        Ok(disk)
    }

    /// Takes what room there is.
    fn fill(&self) {
        let mut file = fs::File::create(self.filler()).unwrap();
        while file.write_all(&[1; 4096]).is_ok() {}
    }

    fn make_room(&self) {
        fs::remove_file(self.filler()).unwrap();
    }

    fn filler(&self) -> PathBuf {
        self.0.join("somebody-elses-file")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_ends_in_refusals_and_a_stop_and_with_room_the_service_goes_on() {
    let mut deployment = Deployment::found();
    let device = deployment.order("first", &[eid(GRANTED, 1)]).remove(0);
    deployment.stop();
    let disk = match SmallDisk::under(&deployment.path("data/log"), LOG_SIZE) {
        Ok(disk) => disk,
        Err(why) => return println!("{why}"),
    };
    deployment.serve();
    let mut client = SessionKeyServiceClient::new(deployment.caller("provisioner").await.channel);
    let fetch = |key: &str| device.request(key, PURPOSE, CryptogramBehaviour::Honest);
    client.fetch_session_keys(fetch("before")).await.unwrap();

    disk.fill();
    let started = Instant::now();
    let mut acknowledged = BTreeSet::new();
    let status = loop {
        assert!(started.elapsed() < 3 * PATIENCE, "{} calls on a full disk", acknowledged.len());
        match client.fetch_session_keys(fetch(&format!("full-{}", acknowledged.len()))).await {
            Ok(answer) => assert!(acknowledged.insert(answer.into_inner().entry_index)),
            Err(status) => break status,
        }
    };
    println!("{} calls were answered before the disk was full", acknowledged.len());
    assert_eq!((status.code(), reason(&status).as_str()), (Code::Unavailable, "LOG_UNAVAILABLE"), "{status}");
    assert!(status.get_details_retry_info().is_some());
    assert_eq!(
        status.get_details_error_info().unwrap().metadata["next_step"],
        "the operator must look at the service"
    );
    assert!(status.metadata().get("chancery-entry-index").is_none(), "an entry on a full disk");
    // Nothing is acknowledged any more, and the daemon ends by itself.
    let started = Instant::now();
    let said = || fs::read_to_string(deployment.path("serve.log")).unwrap();
    while !said().contains("chanceryd: the log has stopped") {
        let status = client.fetch_session_keys(fetch("still")).await.unwrap_err();
        // None of ours: the connection is gone.
        if status.get_details_error_info().is_some() {
            assert_eq!(reason(&status), "LOG_UNAVAILABLE");
        }
        assert!(started.elapsed() < PATIENCE, "the daemon stays: {}", said());
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    deployment.kill9();

    disk.make_room();
    deployment.serve();
    let mut client = SessionKeyServiceClient::new(deployment.caller("provisioner").await.channel);
    client.fetch_session_keys(fetch("after")).await.unwrap();
    let released: BTreeSet<u64> = deployment
        .entries()
        .iter()
        .filter(|entry| {
            entry.header.event == EventType::SessionKeysReleased && entry.header.outcome == Outcome::Done
        })
        .map(|entry| entry.header.index)
        .collect();
    assert!(acknowledged.is_subset(&released), "an acknowledged release is gone");
    deployment.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_whose_output_has_no_room_is_given_back_and_taken_when_it_has() {
    let mut deployment = Deployment::found();
    deployment.order("first", &[eid(GRANTED, 1)]);
    deployment.stop();
    let disk = match SmallDisk::under(&deployment.path("data/orders"), ORDERS_SIZE) {
        Ok(disk) => disk,
        Err(why) => return println!("{why}"),
    };
    deployment.serve();
    let mut eum = OrderServiceClient::new(deployment.caller("eum").await.channel);
    let before = deployment.entries();
    let line = with_key(&eid(GRANTED, 2), Key::PublicKey(new_public_key()));

    disk.fill();
    let status = place(&mut eum, "full", ISSUER, vec![line.clone()]).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::Unavailable, "LOG_UNAVAILABLE"), "{status}");
    assert!(status.get_details_retry_info().is_some());
    let index = status.metadata().get("chancery-entry-index").unwrap().to_str().unwrap();
    let entries = deployment.entries();
    let header = &entries[index.parse::<usize>().unwrap()].header;
    assert!(matches!(header.outcome, Outcome::Failed(reason) if reason.as_str() == "LOG_UNAVAILABLE"));
    assert!(header.actor.is_some());
    // What was taken for it was given back, and says so.
    for event in [EventType::CertificateIssued, EventType::DeviceRegistered, EventType::OrderChunkWritten] {
        assert_eq!(count(&entries, event), count(&before, event), "{event:?}");
    }
    let failed = |entry: &&audit::Entry| entry.header.event == EventType::CertificateFailed;
    assert_eq!(entries.iter().filter(failed).count(), 1);

    disk.make_room();
    let results = place(&mut eum, "full", ISSUER, vec![line]).await.unwrap();
    assert!(matches!(results[..], [LineResult::Certificate(_)]));
    deployment.stop();
}
