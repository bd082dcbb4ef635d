//! A download to a device of SGP.22 v3, variant C: two sub CAs and its manufacturer between it and the certificate issuer.

use proto::v1::ProfileProtection;

use super::{bound_package, profile, refused};
use crate::hierarchies::issuer;
use crate::rsp::download::{Download, Site};
use crate::support::Deployment;

#[tokio::test(flavor = "multi_thread")]
async fn a_device_below_sub_cas_downloads_and_each_of_them_can_end_it() {
    let deployment = Deployment::found_with(&["--rsp"]);
    let mut site = Site::build(&deployment, 1).await;
    issuer(&deployment, "ci-sub", "national", "ci", None);
    issuer(&deployment, "eum-v3-sub", "maker", "national", Some("eum"));
    issuer(&deployment, "eum-sub", "factory", "maker", Some("eum"));
    let device = site.add_of_variant_c(&deployment, "factory", &["maker", "national"]);

    let mut download = site.initiate(device).await.unwrap();
    let offer = download.authenticate(&site, None).await.unwrap();
    let prepared = download.prepare(&offer, None);
    let request = download.bind_request("v3", &prepared, ProfileProtection::SessionKeys);
    let bound = site.bind(&request).await.unwrap();
    let package = bound_package(&site, &download, &bound);
    assert_eq!(download.euicc.install(&package).unwrap(), profile());

    // The authority knows its own sub CAs, a manufacturer's it must be shown.
    let without = |mut download: Download, kept: usize| {
        download.euicc.keep_other_certificates(kept);
        download
    };
    let mut shown = without(site.initiate(device).await.unwrap(), 1);
    shown.authenticate(&site, None).await.unwrap();
    let mut hidden = without(site.initiate(device).await.unwrap(), 0);
    assert_eq!(refused(hidden.authenticate(&site, None).await), "EUICC_CERTIFICATE_REFUSED");

    // A hold of any of them ends what is under way, and what comes.
    for name in ["national", "maker", "factory"] {
        let mut begun = site.initiate(device).await.unwrap();
        let offer = begun.authenticate(&site, None).await.unwrap();
        let prepared = begun.prepare(&offer, None);
        let pem = std::fs::read(deployment.path(&format!("received/{name}/certificate.pem"))).unwrap();
        let serial = hex::encode(pki::Certificate::from_pem(&pem).unwrap().serial().as_bytes());
        let hold = ["certificate", "hold", "--serial", &serial, "--reference", "case 9"];
        deployment.chancery(&[&hold[..], &["--identity", "officer"]].concat());
        let request = begun.bind_request(name, &prepared, ProfileProtection::SessionKeys);
        assert_eq!(refused(site.bind(&request).await), "EUICC_CERTIFICATE_REFUSED", "{name}");
        let mut next = site.initiate(device).await.unwrap();
        assert_eq!(refused(next.authenticate(&site, None).await), "EUICC_CERTIFICATE_REFUSED", "{name}");
        let release = ["certificate", "release", "--serial", &serial, "--because", "case 9 closed"];
        deployment.two_persons(&release, None);
    }
}
