"""What a connection needs to know of its machine: which certificates to trust, and how long to wait.

Everything that connects uses this module, so one setting is enough for all.
"""

from __future__ import annotations

import os
import ssl

from .deadlines import check_timeout

TIMEOUT_VARIABLE = "TELLURIO_TIMEOUT"
SYSTEM_TRUST_VARIABLE = "TELLURIO_SYSTEM_TRUST"
# OpenSSL's codes of what only its flag X509_STRICT looks at (RFC 5280), which Python sets from 3.13 on.
_STRICT_ONLY = range(80, 95)
_BUNDLE_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


def tls_context() -> ssl.SSLContext:
    """A new context that checks certificates and host names.

    It trusts the certificates of the system, or those that ``SSL_CERT_FILE`` and ``SSL_CERT_DIR`` name instead
    (variables of OpenSSL); and in addition those of ``REQUESTS_CA_BUNDLE`` or ``CURL_CA_BUNDLE``. If the system has
    none, it trusts those of the package ``certifi``.

    With ``TELLURIO_SYSTEM_TRUST=1`` it asks the system's own trust store, as browsers do: the keychain on macOS, the
    certificate store on Windows, on Linux the files of the distribution, wherever those are (extra ``truststore``).

    Raises:
        ValueError: the certificates that a variable names cannot be read, or the trust store cannot be asked.
    """
    context = default_context()
    bundle = next(filter(None, map(os.environ.get, _BUNDLE_VARIABLES)), None)
    if bundle is not None:
        try:
            if os.path.isdir(bundle):
                context.load_verify_locations(capath=bundle)
            else:
                context.load_verify_locations(cafile=bundle)
        except OSError as exc:
            raise ValueError(
                f"The certificates that REQUESTS_CA_BUNDLE or CURL_CA_BUNDLE names cannot be read: {bundle!r}: {exc}"
            ) from exc
    paths = ssl.get_default_verify_paths()
    if bundle is None and paths.cafile is None and paths.capath is None:
        import certifi  # what the HTTP library would use

        context.load_verify_locations(certifi.where())
    return context


def default_context() -> ssl.SSLContext:
    """A context that checks certificates and host names, with what is trusted before any bundle is added.

    Raises:
        ValueError: the system's trust store was asked for, and the package ``truststore`` is not there.
    """
    text = os.environ.get(SYSTEM_TRUST_VARIABLE, "").strip().lower()
    if text in ("", "0", "false", "no", "off"):
        return ssl.create_default_context()
    if text not in ("1", "true", "yes", "on"):
        raise ValueError(f"{SYSTEM_TRUST_VARIABLE} must be 1 or 0, not {text!r}")
    try:
        import truststore
    except ImportError:
        raise ValueError(
            f"{SYSTEM_TRUST_VARIABLE} needs the extra `truststore`: pip install 'tellurio_sync[truststore]'"
        ) from None
    return truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def timeout_or(default: float) -> float:
    """Seconds: ``TELLURIO_TIMEOUT``, else the default.

    Raises:
        ValueError: the variable is no positive finite number.
    """
    text = os.environ.get(TIMEOUT_VARIABLE)
    if not text:
        return default
    try:
        seconds = float(text)
    except ValueError:
        raise ValueError(f"{TIMEOUT_VARIABLE} must be a number of seconds, not {text!r}") from None
    return check_timeout(seconds, TIMEOUT_VARIABLE)


def certificate_hint(exc: ssl.SSLCertVerificationError) -> str:
    """What to do about a certificate that was refused."""
    text = exc.verify_message.lower()
    if "expired" in text or "not yet valid" in text:
        return "Check the clock of this machine; if it is right, the server's certificate must be renewed."
    if "mismatch" in text or "not valid for" in text:
        return "Use the name that the certificate is for in the address."
    if exc.verify_code in _STRICT_ONLY:
        return (
            "Python 3.13 and later want more of a certificate than browsers do, and some proxies of companies do not "
            f"keep to it: {SYSTEM_TRUST_VARIABLE}=1 (extra `truststore`) asks for what browsers ask for."
        )
    return (
        "If your company or your server has a certificate authority of its own, name the file with its "
        "certificates: SSL_CERT_FILE=/path/to/ca.pem (or REQUESTS_CA_BUNDLE, in addition to the system's). If "
        f"browsers trust it, {SYSTEM_TRUST_VARIABLE}=1 makes this program ask where they ask."
    )
