//! Many certificates at once: what is affected is shown and signed, all of them go or none.

use serde_json::Value;

use super::*;
use crate::fleet::TwoPersons;

fn plan(deployment: &Deployment, which: &[&str]) -> Value {
    let many = ["certificate", "revoke-many", "--reason", "superseded", "--dry-run", "--identity", "officer"];
    let shown = deployment.chancery(&[&many[..], which, &["--output", "json"]].concat());
    serde_json::from_str(&shown).unwrap()
}

fn hex_of(certificate: &Certificate) -> String {
    hex::encode(certificate.serial().as_bytes())
}

#[tokio::test(flavor = "multi_thread")]
async fn many_certificates_are_revoked_by_one_approval_and_none_when_one_has_changed() {
    let deployment = Deployment::found();
    let persons = TwoPersons::of(&deployment).await;
    let mut certificates = Vec::new();
    for number in 0..4 {
        certificates.push(issue(&deployment, &persons, "dppb", &format!("many-{number}")).await);
    }
    let auth = issue(&deployment, &persons, "dpauth", "many-auth").await;
    let mut lists = Lists::of(&deployment, &certificates[0]);

    // The plan names what goes, and what stays in its place.
    let all = plan(&deployment, &["--holder", "provisioner", "--profile", "dppb"]);
    assert_eq!(all["parties"]["provisioner"]["certificates"], 4);
    assert_eq!(all["parties"]["provisioner"]["without_replacement"], 4);
    let serials: String = certificates[..3].iter().map(|one| hex_of(one) + "\n").collect();
    fs::write(deployment.path("serials.txt"), &serials).unwrap();
    let some = plan(&deployment, &["--serials", "serials.txt"]);
    assert_eq!(some["parties"]["provisioner"]["without_replacement"], 0);
    assert_eq!(some["certificates"][0]["replacement"], hex_of(&certificates[3]).as_str());
    let none = ["certificate", "revoke-many", "--reason", "superseded", "--identity", "officer"];
    let early = [&none[..], &["--profile", "dppb", "--issued-before", "2020-01-01T00:00:00Z"]].concat();
    assert!(deployment.refused("chancery", &early).contains("no certificate in force is chosen"));

    // Approved, and then one of them is revoked alone: nothing of the rest happens.
    let many = ["certificate", "revoke-many", "--serials", "serials.txt", "--reason", "superseded"];
    let digest = deployment.request(&many);
    persons.carry_out(revocation(certificates[0].serial())).await.unwrap();
    let approve = ["operation", "approve", &digest, "--yes", "--identity", "approver"];
    let shown = deployment.chancery(&approve);
    assert!(shown.contains("dppb of provisioner") && shown.contains("stays in force"), "{shown}");
    let refused = deployment.refused("chancery", &["operation", "execute", &digest, "--identity", "officer"]);
    assert!(refused.contains("revoked already"), "{refused}");
    let (list, _) = lists.until_shown(certificates[0].serial()).await;
    assert_eq!(list.revoked().len(), 1);

    // Three certificates of two profiles, in one commit.
    let rest: String =
        [&certificates[1], &certificates[2], &auth].into_iter().map(|one| hex_of(one) + "\n").collect();
    fs::write(deployment.path("serials.txt"), rest).unwrap();
    deployment.two_persons(&[&many[..], &["--because", "incident 118"]].concat(), None);
    let (list, _) = lists.until_shown(auth.serial()).await;
    assert_eq!(list.revoked().len(), 4);
    assert!(list.find(certificates[3].serial()).is_none(), "what stays in force");
    assert_eq!(verify(&deployment, &list, "many-1"), Some(23));
    assert_eq!(verify(&deployment, &list, "many-3"), None);

    // One person holds what a query chooses, at once.
    let hold = ["certificate", "revoke-many", "--holder", "provisioner", "--profile", "dppb"];
    let held = deployment.chancery(&[&hold[..], &["--hold", "incident 9", "--identity", "officer"]].concat());
    assert!(held.contains("1 certificates are held"), "{held}");

    let entries = deployment.entries();
    let heads: Vec<_> =
        entries.iter().filter(|entry| entry.header.event == EventType::CertificatesRevoked).collect();
    assert_eq!(heads.len(), 1);
    assert_eq!(heads[0].number("count"), Some(3));
    let of_it = entries
        .iter()
        .filter(|entry| entry.header.event == EventType::CertificateRevoked)
        .filter(|entry| entry.digest("operation") == heads[0].digest("operation"));
    assert_eq!(of_it.count(), 3);
    deployment.export("export-many");
}
