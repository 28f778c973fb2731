"""boto3's client from the settings, requests whose errors hold no credential, and checksums of objects.

Settings come from the environment, then from `.env` at the repository's root (`KDLIB_ENV` names another file). botocore's
errors and a store's answers can hold the key's id, so nothing of them is repeated."""

import base64
import contextlib
import functools
import hashlib
import logging
import os
import re
import warnings
import zlib
from dataclasses import dataclass, field
from pathlib import Path

from kdlib import paths
from kdlib.storage.advice import ADVICE, NO_STORE
from kdlib.storage.transfers import TRANSIENT, Trouble

KEYS = (("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), ("AWS_ACCESS_KEY", "AWS_SECRET_KEY"))
ABSENT = ("NoSuchKey", "404")
DENIED = ("AccessDenied", "403")  # also the answer about an absent object, to a key that may not list the bucket
BLOCK = 1 << 20  # bytes read at a time for a checksum
OUR_SHA256 = "kdlib-sha256"  # in an object's metadata: the SHA-256 of the whole file, however it was uploaded
ADDRESS = r"https?://[^/@?#\s]+(/[^@?#\s]*)?"  # of a store; a password or a signed query would show in messages
CHECKSUMS, WHEN = "AWS_REQUEST_CHECKSUM_CALCULATION", ("when_supported", "when_required")
SWITCH = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


@dataclass(frozen=True)
class Store:
    """A bucket: boto3's `client`, and the `prefix` before every key."""

    client: object = field(repr=False)
    bucket: str
    prefix: str

    def names(self, name) -> dict:
        """The object `name` as boto3's arguments."""
        return {"Bucket": self.bucket, "Key": "/".join(part for part in (self.prefix, name.strip("/")) if part)}

    def where(self, name) -> str:
        """The object `name` in messages."""
        return f"s3://{self.bucket}/{self.names(name)['Key']} at {self.client.meta.endpoint_url}"


def connect(bucket=None, prefix=None, *, attempts=5, timeout=60.0) -> Store:
    """Return the bucket to work with; no request is made yet.

    Parameters
    ----------
    bucket, prefix : str, optional
        Default: the settings `KDLIB_S3_BUCKET` and `KDLIB_S3_PREFIX`.
    attempts : int
        How often a request is made at most.
    timeout : float
        Seconds without an answer.

    Raises
    ------
    ValueError
        If a setting is missing or wrong.
    """
    bucket = bucket or _setting("KDLIB_S3_BUCKET")
    if not bucket:
        raise ValueError("no bucket: set KDLIB_S3_BUCKET in .env (.env.example shows how), or give one (--bucket)")
    client = _client(attempts, timeout)
    if isinstance(client, str):
        raise ValueError(client)
    prefix = (_setting("KDLIB_S3_PREFIX") or "") if prefix is None else prefix
    return Store(client, bucket, prefix.strip("/"))


def _setting(name):
    """A setting from the environment or else from `.env`; None if it is absent or empty."""
    return os.environ.get(name) or _env_file().get(name) or None


def _env_file():
    from dotenv import dotenv_values

    file = Path(os.environ.get("KDLIB_ENV") or paths.ROOT / ".env")
    _warn_if_readable(file)
    try:
        return dotenv_values(file, interpolate=False)
    except UnicodeDecodeError:
        raise ValueError(f"{file} is not text in UTF-8: save it as such") from None


@functools.cache
def _warn_if_readable(file):
    """Warn once that others of this machine can read the settings."""
    with contextlib.suppress(OSError):
        if os.name == "posix" and file.stat().st_mode & 0o077:
            warnings.warn(f"{file} holds credentials, and others can read it: chmod 600 {file}", stacklevel=2)


def _switch(name):
    """A setting that is on or off; None for any other text."""
    return SWITCH.get((_setting(name) or "0").strip().lower())


def _pay(params, model, **_):
    """Let this key's owner pay for a request, where the request knows of it."""
    if "RequestPayer" in model.input_shape.members:
        params["RequestPayer"] = "requester"


# Tracebacks can show variables: while these three hold secrets they raise nothing, but return what is wrong as text.
def _key():
    """(key's id, secret key, session token) from one source, never mixed; three None if boto3 must look for itself."""
    for place, source in (("the environment", os.environ), (".env", _env_file())):
        for names in KEYS:
            pair = [source.get(name) for name in names]
            if all(pair):
                return *pair, source.get("AWS_SESSION_TOKEN") or None
            if any(pair):
                return f"{names[0]} and {names[1]} belong together, and only one of them is set in {place}"
        if os.environ.get("AWS_PROFILE"):
            break
    return None, None, None


def _client(attempts, timeout):
    """boto3's client, or what is wrong with the settings."""
    endpoint = _setting("AWS_ENDPOINT_URL_S3") or _setting("AWS_ENDPOINT_URL")
    if endpoint and not re.fullmatch(ADDRESS, endpoint):
        return "AWS_ENDPOINT_URL_S3 must be an address such as http://localhost:9000, without a user or password"
    unsigned = _switch("KDLIB_S3_UNSIGNED")
    for name in ("KDLIB_S3_UNSIGNED", "KDLIB_S3_REQUESTER_PAYS"):
        if _switch(name) is None:
            return f"{name} must be 1 or 0, true or false, yes or no"
    if (_setting(CHECKSUMS) or WHEN[0]).lower() not in WHEN:
        return f"{CHECKSUMS} must be {' or '.join(WHEN)}"
    key = (None, None, None) if unsigned else _key()
    return key if isinstance(key, str) else _client_with(key, unsigned, endpoint, attempts, timeout)


def _client_with(key, unsigned, endpoint, attempts, timeout):
    import boto3
    import botocore.exceptions
    from botocore.config import Config

    for name in ("boto3", "botocore"):  # at the level DEBUG they log signed headers
        if logging.getLogger(name).level == logging.NOTSET:
            logging.getLogger(name).setLevel(logging.INFO)
    config = Config(
        signature_version=botocore.UNSIGNED if unsigned else None,
        connect_timeout=timeout,
        read_timeout=timeout,
        retries={"mode": "standard", "total_max_attempts": attempts},
        s3={"addressing_style": "path"} if endpoint else None,
        # not every store that is not Amazon's knows the headers of checksums
        request_checksum_calculation=(_setting(CHECKSUMS) or WHEN[bool(endpoint)]).lower(),
        response_checksum_validation="when_required",  # a resumed range does not have the whole object's checksum
    )
    names = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")
    try:
        profile = None if unsigned or key[0] else _setting("AWS_PROFILE")  # a pair of keys in the same place goes first
        session = boto3.Session(profile_name=profile)
        region = _setting("AWS_DEFAULT_REGION") or session.region_name or "us-east-1"
        credentials = dict(zip(names, key, strict=True))
        client = session.client("s3", region_name=region, endpoint_url=endpoint, config=config, **credentials)
    except botocore.exceptions.ProfileNotFound:
        return "AWS_PROFILE names a profile that is not in ~/.aws/config: correct it or unset it"
    except (botocore.exceptions.BotoCoreError, ValueError) as error:
        kind = type(error).__name__
        return f"boto3 cannot use the settings ({kind}): check .env, ~/.aws/config and ~/.aws/credentials"
    if _switch("KDLIB_S3_REQUESTER_PAYS"):
        client.meta.events.register("before-parameter-build.s3", _pay)
    if not re.fullmatch(ADDRESS, client.meta.endpoint_url):
        return "endpoint_url in ~/.aws/config must be an address, as http://localhost:9000, without user or password"
    return client


def ask(call, *arguments, **named):
    """Return call(…), a request of boto3's; `Trouble` if it fails, without a link to botocore's error."""
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError
    from urllib3.exceptions import HTTPError

    try:
        return call(*arguments, **named)
    except (Boto3Error, BotoCoreError, ClientError, HTTPError, ConnectionError, TimeoutError, RecursionError) as error:
        trouble = _trouble(error)
    raise trouble


def _trouble(error):
    from boto3.exceptions import S3UploadFailedError
    from botocore import exceptions

    if isinstance(error, S3UploadFailedError):
        error = error.__context__ or error
    kind = type(error).__name__
    if isinstance(error, exceptions.ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        code = error.response.get("Error", {}).get("Code", "")
        if code not in ADVICE and not re.fullmatch("([A-Z][a-z]+){2,8}", code):
            code = ""  # the store could have written anything here
        if status in (412, 416):
            return Trouble("the object changed since the download began", "restart", code)
        if status in TRANSIENT:
            return Trouble(f"the store answered {status}", "resume", code)
        general = ADVICE.get(str(status))
        advice = ADVICE.get(code) or (
            "; ".join(filter(None, (code, general))) if status in (400, 501) else general or code
        )
        return Trouble(f"the store answered {status}" + (f": {advice}" if advice else ""), "stop", code)
    broken = (exceptions.ConnectionError, exceptions.HTTPClientError, exceptions.IncompleteReadError)
    if kind in ADVICE or (isinstance(error, exceptions.BotoCoreError) and not isinstance(error, broken)):
        return Trouble(ADVICE.get(kind, f"botocore failed ({kind})"), "stop", kind)
    return Trouble(f"no connection, or it broke ({kind})", "resume", kind)


def describe(store, name, *, trust_metadata=True):
    """Return (size in bytes, tag) of an object; the tag, JSON-able, identifies this version and says how to `check` it.

    trust_metadata: use the SHA-256 that `put` left there. Raises Trouble."""
    names = store.names(name)
    try:
        head = ask(store.client.head_object, **names, ChecksumMode="ENABLED")
    except Trouble as trouble:
        failure = trouble
    else:
        if not head.get("ETag"):
            raise Trouble(NO_STORE, "stop")
        digest = _known_digest(store, names, head, trust_metadata)
        return head["ContentLength"], {"etag": head["ETag"], "check": digest}
    if failure.remedy == "stop":  # an answer to HEAD has no body, which would say what is wrong
        ask(store.client.get_object, **names, Range="bytes=0-0")["Body"].close()
    raise failure


def find(store, name, *, absent=ABSENT):
    """As `describe`, but None if the store answers with one of the codes `absent`."""
    try:
        return describe(store, name)
    except Trouble as trouble:
        if trouble.code in absent:
            return None
        raise


def _known_digest(store, names, head, trust_metadata):
    """[algorithm, digest, size of the parts or 0]: the best that the store knows of the object, or None."""
    metadata = {key.lower(): value for key, value in head.get("Metadata", {}).items()}
    if trust_metadata and OUR_SHA256 in metadata:
        return ["sha256", metadata[OUR_SHA256].lower(), 0]
    stored = {name: head.get(f"Checksum{name.upper()}") or "-" for name in ("sha256", "crc32")}
    if head.get("ChecksumType") == "COMPOSITE":
        stored = {}
    stored = {name: base64.b64decode(value).hex() for name, value in stored.items() if "-" not in value}
    encrypted = head.get("SSECustomerAlgorithm") or head.get("ServerSideEncryption", "AES256") != "AES256"
    etag = re.fullmatch(r'"?([0-9a-f]{32})(?:-(\d+))?"?', head["ETag"])
    if etag and not encrypted and "sha256" not in stored:
        part_size = _part_size(store, names, int(etag[2]), head["ContentLength"]) if etag[2] else 0
        if part_size or not etag[2]:
            return ["md5", etag[0].strip('"'), part_size]
    return next(([name, digest, 0] for name, digest in stored.items()), None)


def _part_size(store, names, count, total):
    """Size of the parts in which an object was uploaded; 0 if they differ or the store does not say."""
    try:
        first, last = (ask(store.client.head_object, **names, PartNumber=n)["ContentLength"] for n in (1, count))
    except Trouble:
        return 0
    return first if first and (count - 1) * first + last == total else 0


def check(path, tag, name):
    """Compare a file with the digest in the tag of `describe`; ValueError if they differ."""
    if not tag or not tag["check"]:
        return
    algorithm, expected, part_size = tag["check"]
    actual = _digest(path, algorithm, part_size)
    if actual != expected:
        raise ValueError(f"{name} is damaged or another file: its {algorithm} is {actual}, not {expected}")


def _digest(path, algorithm, part_size):
    """Hexadecimal; with a part size the digest of the parts' digests and their count, as in S3's ETags."""
    with open(path, "rb") as file:
        if algorithm == "crc32":
            blocks = iter(functools.partial(file.read, BLOCK), b"")
            return f"{functools.reduce(lambda crc, block: zlib.crc32(block, crc), blocks, 0):08x}"
        if not part_size:
            return hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()
        parts = []
        while file.peek(1):
            part, left = hashlib.new(algorithm, usedforsecurity=False), part_size
            while left and (block := file.read(min(BLOCK, left))):
                part.update(block)
                left -= len(block)
            parts.append(part.digest())
    return f"{hashlib.new(algorithm, b''.join(parts), usedforsecurity=False).hexdigest()}-{len(parts)}"
