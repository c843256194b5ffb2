"""A C2PA manifest: the origin of an image, signed, so that who changes the file or what it says is noticed.

Specification: https://c2pa.org/specifications/
"""

import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tilth.claims import Json
from tilth.errors import InputError
from tilth.extras import optional
from tilth.origins.packet import MADE, kept, mime_of, parsed

LABEL = "org.tilth.origin"
TEST = "test"
TEST_DAYS = 30
UNKNOWN_SIGNER = "signingCredential.untrusted"
ALGORITHMS = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}
# A thumbnail of what is a thumbnail itself would weigh more than the image, and nothing is ever fetched to judge a signature.
SETTINGS = {
    "builder": {"thumbnail": {"enabled": False}},
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False},
}

Sign = Callable[[bytes, Mapping[str, Json]], bytes]
"""From a file and its origin to the file with its manifest."""


@dataclass(frozen=True, kw_only=True)
class Signature:
    """Who signed what a file says.

    Args:
        by: The certificate's name and organisation.
        state: `Trusted` by a list of the C2PA, `Valid` and of a certificate that no list has, or `Invalid`: changed since.
        origin: What was signed, where Tilth signed it.
        why: What is wrong with an invalid one.
    """

    by: str
    state: str
    origin: Mapping[str, Json]
    why: tuple[str, ...] = ()


def signer(certificate: str) -> Sign:
    """Return what signs files.

    Args:
        certificate: PEM file with the chain, the signer's first, and its private key without a password; `test` makes one that
            no list trusts.

    Raises:
        InputError: The file is absent or holds no certificate and key that C2PA signs with.
        MissingExtra: c2pa-python is not installed.
    """
    with optional():
        import c2pa
    chain, key, algorithm = _test_certificate() if certificate == TEST else _read(Path(certificate))
    try:
        info = c2pa.C2paSignerInfo(alg=algorithm.encode(), sign_cert=chain, private_key=key, ta_url=None)
        made = c2pa.Signer.from_info(info)
        context = c2pa.Context(c2pa.Settings.from_dict(SETTINGS))
    except c2pa.C2paError as error:
        raise InputError(f"{certificate}: cannot sign with it: {_short(error)}") from error

    def sign(data: bytes, origin: Mapping[str, Json]) -> bytes:
        out = io.BytesIO()
        try:
            with c2pa.Builder(_manifest(origin), context) as builder:
                builder.sign(made, mime_of(data), io.BytesIO(data), out)
        except c2pa.C2paError as error:
            raise InputError(f"{certificate}: cannot sign with it: {_short(error)}") from error
        return out.getvalue()

    return sign


def signature_in(data: bytes) -> Signature | None:
    """Return who signed the manifest of a file and whether it holds; None when it has none.

    Raises:
        MissingExtra: c2pa-python is not installed.
    """
    with optional():
        import c2pa
    try:
        with c2pa.Reader(
            mime_of(data), io.BytesIO(data), context=c2pa.Context(c2pa.Settings.from_dict(SETTINGS))
        ) as reader:
            manifest = reader.get_active_manifest() or {}
            state, results = str(reader.get_validation_state()), reader.get_validation_results() or {}
    except c2pa.C2paError as error:
        if "ManifestNotFound" in type(error).__name__:
            return None
        return Signature(by="", state="Invalid", origin={}, why=(_short(error),))
    info = manifest.get("signature_info") or {}
    told: Any = next((a.get("data") for a in manifest.get("assertions", ()) if a.get("label") == LABEL), {})
    wrong = (results.get("activeManifest") or {}).get("failure") or ()
    return Signature(
        by=", ".join(dict.fromkeys(str(info[name]) for name in ("common_name", "issuer") if info.get(name))),
        state=state,
        origin=parsed(str(told.get("json") or "")) if isinstance(told, dict) else {},
        why=tuple(dict.fromkeys(code for each in wrong if (code := str(each.get("code"))) != UNKNOWN_SIGNER))
        if state == "Invalid"
        else (),
    )


def _manifest(origin: Mapping[str, Json]) -> dict[str, Any]:
    action = {
        "action": "c2pa.created",
        "digitalSourceType": str(origin.get("digital_source_type") or MADE),
        "softwareAgent": {"name": str(origin.get("model") or "tilth")},
    }
    return {
        "claim_generator_info": [{"name": "tilth"}],
        "title": str(origin.get("source") or "image"),
        "assertions": [
            {"label": "c2pa.actions.v2", "data": {"actions": [action]}},
            # as text: of a list of small numbers the library would make bytes
            {"label": LABEL, "data": {"json": json.dumps(kept(origin), sort_keys=True)}},
        ],
    }


def _read(path: Path) -> tuple[bytes, bytes, str]:
    """Read a PEM file's certificates, its key, and the algorithm that C2PA names for the key."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path}: a PEM file with certificates and a private key was expected: {_short(error)}"
        ) from error
    blocks = ["-----BEGIN " + each for each in text.split("-----BEGIN ")[1:]]
    chain = "".join(each for each in blocks if each.startswith("-----BEGIN CERTIFICATE"))
    keys = [each for each in blocks if "PRIVATE KEY-----" in each.splitlines()[0]]
    if not chain or len(keys) != 1:
        raise InputError(
            f"{path}: expected a chain of certificates and one private key, got {len(blocks) - len(keys)} and {len(keys)}"
        )
    try:
        key = serialization.load_pem_private_key(keys[0].encode(), None)
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: its private key cannot be read: {_short(error)}") from error
    curve = getattr(getattr(key, "curve", None), "name", "")
    if isinstance(key, ec.EllipticCurvePrivateKey) and curve in ALGORITHMS:
        algorithm = ALGORITHMS[curve]
    elif isinstance(key, ed25519.Ed25519PrivateKey):
        algorithm = "ed25519"
    elif isinstance(key, rsa.RSAPrivateKey):
        algorithm = "ps256"
    else:
        raise InputError(f"{path}: C2PA signs with ECDSA, Ed25519 or RSA keys, got {type(key).__name__} {curve}")
    plain = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return chain.encode(), plain, algorithm


def _test_certificate() -> tuple[bytes, bytes, str]:
    """Make a certificate and its root, for a month; nobody trusts it."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    began = datetime.now(UTC) - timedelta(days=1)
    root_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    uses = (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
    )
    none = dict.fromkeys((*uses, "crl_sign", "encipher_only", "decipher_only"), False)

    def named(name: str) -> x509.Name:
        return x509.Name(
            [x509.NameAttribute(NameOID.COMMON_NAME, name), x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Tilth")]
        )

    def about(name: str, public: ec.EllipticCurvePublicKey, use: str, *, root: bool) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder(
                named("test root, not to be trusted"), named(name), public, x509.random_serial_number()
            )
            .not_valid_before(began)
            .not_valid_after(began + timedelta(days=TEST_DAYS))
            .add_extension(x509.BasicConstraints(ca=root, path_length=None), critical=True)
            .add_extension(x509.KeyUsage(**{**none, use: True}), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        )

    root = about("test root, not to be trusted", root_key.public_key(), "key_cert_sign", root=True).sign(
        root_key, hashes.SHA256()
    )
    leaf = (
        about("test signer, not to be trusted", key.public_key(), "digital_signature", root=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(root_key.public_key()), critical=False)
        .sign(root_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return leaf.public_bytes(pem) + root.public_bytes(pem), secret, "es256"


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
