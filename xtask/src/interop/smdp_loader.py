"""Loads a hand-over as an SM-DP+ in Python would: osmo-smdpp's folders and names, and the library it uses.

Argument: the folder. Standard output: a JSON array of what is wrong, empty when everything loads and fits.
"""

import json
import pathlib
import ssl
import sys

from cryptography import x509
from cryptography.hazmat.primitives import serialization

CI_POLICY = "2.23.146.1.2.1.0"
PARTS = {
    "2.23.146.1.2.1.4": ("DPauth", "DPauth_ECDSA_NIST"),
    "2.23.146.1.2.1.5": ("DPpb", "DPpb_ECDSA_NIST"),
    "2.23.146.1.2.1.3": ("DPtls", "DP_TLS_NIST"),
}

folder = pathlib.Path(sys.argv[1])
problems = []


def policies(certificate):
    extension = certificate.extensions.get_extension_for_class(x509.CertificatePolicies)
    return [policy.policy_identifier.dotted_string for policy in extension.value]


def spki(key):
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


authorities = []
for path in sorted((folder / "CertificateIssuer").iterdir()):
    load = x509.load_der_x509_certificate if path.suffix == ".der" else x509.load_pem_x509_certificate
    authorities.append(load(path.read_bytes()))
    if CI_POLICY not in policies(authorities[-1]):
        problems.append(path.name + " is no certificate issuer")
if not authorities:
    problems.append("no certificate issuer")

for policy, (place, name) in PARTS.items():
    certificate = x509.load_der_x509_certificate((folder / place / ("CERT_S_SM_" + name + ".der")).read_bytes())
    again = x509.load_pem_x509_certificate((folder / place / ("CERT_S_SM_" + name + ".pem")).read_bytes())
    key = serialization.load_pem_private_key((folder / place / ("SK_S_SM_" + name + ".pem")).read_bytes(), None)
    if certificate != again:
        problems.append(place + ": DER and PEM differ")
    if policies(certificate) != [policy]:
        problems.append(place + ": another role")
    if spki(certificate.public_key()) != spki(key.public_key()):
        problems.append(place + ": another key")
    issuer = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    for authority in authorities:
        identifier = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
        if identifier != issuer:
            problems.append(place + ": another issuer")
        try:
            certificate.verify_directly_issued_by(authority)
        except Exception as error:
            problems.append(place + ": " + repr(error))

server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
server.load_cert_chain(folder / "DPtls/CERT_S_SM_DP_TLS_NIST.pem", folder / "DPtls/SK_S_SM_DP_TLS_NIST.pem")
json.dump(sorted(set(problems)), sys.stdout)
