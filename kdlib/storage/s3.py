"""The S3 protocol by boto3: settings, objects read in parts, checksums, and errors that hold no credential.

Settings come from the environment, then from `.env` at the repository's root (`KDLIB_ENV` names another file). Nothing that
botocore says is passed on: its errors, and what a store answers, can hold the key's id. `storage` has the public calls."""

import base64
import contextlib
import functools
import hashlib
import logging
import os
import re
import zlib
from dataclasses import dataclass, field
from pathlib import Path

from kdlib import paths

KEYS = (("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), ("AWS_ACCESS_KEY", "AWS_SECRET_KEY"))
PASSING = (408, 429, 500, 502, 503, 504)  # answers of a store that may be well again in a moment
CHANGED = (412, 416)
ABSENT = ("NoSuchKey", "404")
DENIED = ("AccessDenied", "403")  # also the answer about an absent object, to a key that may not list the bucket
BLOCK = 1 << 20  # bytes read at a time for a checksum
OUR_SHA256 = "kdlib-sha256"  # in an object's metadata: the SHA-256 of the whole file, however it was uploaded

# of a store; one with a user, a password or a signed query would be told in messages
ADDRESS = r"https?://[^/@?#\s]+(/[^@?#\s]*)?"

_SET_KEY = "set AWS_ACCESS_KEY and AWS_SECRET_KEY in .env, or KDLIB_S3_UNSIGNED=1 if the bucket is public"
_WRONG_KEY = f"the store refuses the key: {_SET_KEY}"
_DENIED = f"the key may not do this, or there is no such object: {_SET_KEY}"
_NO_OBJECT = "the bucket has no such object: check the name, and KDLIB_S3_PREFIX in .env"
_NO_STORE = "it is not an S3 store that answers: check AWS_ENDPOINT_URL_S3 in .env, and the proxy if there is one"
_REGION = "the bucket is in another region: set AWS_DEFAULT_REGION in .env"
ADVICE = {
    "NoSuchBucket": "there is no such bucket: set KDLIB_S3_BUCKET in .env, and AWS_ENDPOINT_URL_S3 if it is not Amazon's",
    "NoSuchKey": _NO_OBJECT,
    "404": _NO_OBJECT,
    "AccessDenied": _DENIED,
    "403": _DENIED,
    "InvalidAccessKeyId": _WRONG_KEY,
    "SignatureDoesNotMatch": _WRONG_KEY,
    "AuthFailure": _WRONG_KEY,
    "InvalidToken": _WRONG_KEY,
    "ExpiredToken": "the session token has expired: renew AWS_SESSION_TOKEN",
    "RequestTimeTooSkewed": "this machine's clock is wrong, so the store refuses its signatures: set the clock",
    "PermanentRedirect": _REGION,
    "AuthorizationHeaderMalformed": _REGION,
    "301": _REGION,
    "NoCredentialsError": f"no key was found: {_SET_KEY}",
    "ParamValidationError": "the name of the bucket or of the object is none that S3 knows: check KDLIB_S3_BUCKET in .env",
    "ResponseParserError": _NO_STORE,
    "RecursionError": _NO_STORE,  # botocore follows a redirection without a region for ever
    "SSLError": "no secure connection: check that AWS_ENDPOINT_URL_S3 and its certificate are right",
}


class Trouble(OSError):
    """A request failed: why and what would help; `remedy` is "resume", "restart" or "stop", `code` the store's name for it."""

    def __init__(self, reason, remedy, code=""):
        super().__init__(reason)
        self.remedy, self.code = remedy, code


@dataclass(frozen=True)
class Store:
    """A bucket: `client` is boto3's, `prefix` comes before every key, `endpoint` is where it is, for messages."""

    client: object = field(repr=False)
    bucket: str
    prefix: str
    endpoint: str

    def key(self, name) -> str:
        """The key of the object `name`."""
        return "/".join(part for part in (self.prefix, name.strip("/")) if part)

    def where(self, name) -> str:
        """The object `name`, as messages call it."""
        return f"s3://{self.bucket}/{self.key(name)} at {self.endpoint}"


def setting(name):
    """A setting from the environment or else from `.env`; an empty one counts as absent, which is None."""
    return os.environ.get(name) or _env_file().get(name) or None


def connect(bucket=None, prefix=None, *, attempts=5, timeout=60.0) -> Store:
    """The bucket to work with; `bucket` and `prefix` default to the settings `KDLIB_S3_BUCKET` and `KDLIB_S3_PREFIX`.

    attempts: how often a request is made at most; timeout: seconds without an answer. No request is made yet.
    Raises ValueError where a setting is missing or wrong."""
    bucket = bucket or setting("KDLIB_S3_BUCKET")
    if not bucket:
        raise ValueError("no bucket: set KDLIB_S3_BUCKET in .env (.env.example shows how), or give one (--bucket)")
    prefix = (setting("KDLIB_S3_PREFIX") or "") if prefix is None else prefix
    client = _client(attempts, timeout)
    if client == "ProfileNotFound":
        raise ValueError("AWS_PROFILE names a profile that is not in ~/.aws/config: correct it or unset it")
    if isinstance(client, str):
        raise ValueError(
            f"boto3 cannot use the settings ({client}): check those in .env, and in ~/.aws/config and ~/.aws/credentials"
        )
    if not re.fullmatch(ADDRESS, client.meta.endpoint_url):
        raise ValueError(
            "endpoint_url in ~/.aws/config must be an address as http://localhost:9000, without user or password"
        )
    return Store(client, bucket, prefix.strip("/"), client.meta.endpoint_url)


def _env_file():
    from dotenv import dotenv_values

    return dotenv_values(os.environ.get("KDLIB_ENV") or paths.ROOT / ".env", interpolate=False)


def _sources():
    return {"the environment": os.environ, ".env": _env_file()}


def _credentials():
    """(key's id, secret key, session token) of one source, never mixed; three None where boto3 has to look for itself."""
    # No variable here holds a secret when the error is raised: some tracebacks show variables.
    present = [
        (where, name) for where, source in _sources().items() for names in KEYS for name in names if source.get(name)
    ]
    for where in _sources():
        for names in KEYS:
            count = sum((where, name) in present for name in names)
            if count == 1:
                raise ValueError(f"{names[0]} and {names[1]} belong together, and only one of them is set in {where}")
            if count == 2:
                source = _sources()[where]
                return (*(source[name] for name in names), source.get("AWS_SESSION_TOKEN") or None)
        if os.environ.get("AWS_PROFILE"):
            break
    return None, None, None


def _endpoint():
    """The address of a store that is not Amazon's, None where none is set, "" where it is wrong or holds a password."""
    endpoint = setting("AWS_ENDPOINT_URL_S3") or setting("AWS_ENDPOINT_URL")
    return endpoint if not endpoint or re.fullmatch(ADDRESS, endpoint) else ""


def _switch(name) -> bool:
    """A setting that is yes or no, by default no."""
    switch = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
    if (text := (setting(name) or "0").strip().lower()) not in switch:
        raise ValueError(f"{name} must be 1 or 0, true or false, yes or no")
    return switch[text]


def _client(attempts, timeout):
    """boto3's client; where there can be none, the name of the error: its text, and the variables here, hold secrets."""
    import boto3
    import botocore.exceptions
    from botocore.config import Config

    for name in ("boto3", "botocore"):  # at the level DEBUG they log signed headers
        if logging.getLogger(name).level == logging.NOTSET:
            logging.getLogger(name).setLevel(logging.INFO)
    endpoint = _endpoint()
    if endpoint == "":
        raise ValueError("AWS_ENDPOINT_URL_S3 must be an address as http://localhost:9000, without a user or password")
    unsigned = _switch("KDLIB_S3_UNSIGNED")
    key, secret, token = (None, None, None) if unsigned else _credentials()
    config = Config(
        signature_version=botocore.UNSIGNED if unsigned else None,
        connect_timeout=timeout,
        read_timeout=timeout,
        retries={"mode": "standard", "total_max_attempts": attempts},
        s3={"addressing_style": "path"} if endpoint else None,
        response_checksum_validation="when_required",  # a part's bytes do not have the whole object's checksum
    )
    try:
        session = boto3.Session()
        return session.client(
            "s3",
            region_name=setting("AWS_DEFAULT_REGION") or session.region_name or "us-east-1",
            endpoint_url=endpoint,
            aws_access_key_id=key,
            aws_secret_access_key=secret,
            aws_session_token=token,
            config=config,
        )
    except (botocore.exceptions.BotoCoreError, ValueError) as error:
        return type(error).__name__


def ask(call, *arguments, **named):
    """call(…), a request of boto3's; `Trouble` where it fails, which has no link to the error that botocore raised."""
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
            code = ""  # it comes from the store: what does not look like one is not told
        if status in CHANGED:
            return Trouble("the object changed since the download began", "restart", code)
        if status in PASSING:
            return Trouble(f"the store answered {status}", "resume", code)
        advice = ADVICE.get(code) or ADVICE.get(str(status)) or code
        return Trouble(f"the store answered {status}" + (f": {advice}" if advice else ""), "stop", code)
    broken = (exceptions.ConnectionError, exceptions.HTTPClientError, exceptions.IncompleteReadError)
    if kind in ADVICE or (isinstance(error, exceptions.BotoCoreError) and not isinstance(error, broken)):
        return Trouble(ADVICE.get(kind, f"botocore failed ({kind})"), "stop", kind)
    return Trouble(f"no connection, or it broke ({kind})", "resume", kind)


def describe(store, name, *, own=True):
    """(size in bytes, tag) of an object; the tag, which JSON can hold, tells it from others and says how to `check` it.

    own: believe the SHA-256 that `storage.put` left in the metadata. Raises Trouble."""
    names = {"Bucket": store.bucket, "Key": store.key(name)}
    try:
        head = ask(store.client.head_object, **names, ChecksumMode="ENABLED")
    except Trouble as trouble:
        failure = trouble
    else:
        if not head.get("ETag"):
            raise Trouble(_NO_STORE, "stop")
        total = head["ContentLength"]
        return total, {"etag": head["ETag"], "check": _known_digest(store, names, head, total, own)}
    if failure.remedy == "stop":  # an answer to HEAD has no body, which would say what is wrong
        ask(store.client.get_object, **names, Range="bytes=0-0")["Body"].close()
    raise failure


def find(store, name, *, absent=ABSENT):
    """As `describe`, but None where the bucket has no such object: where the store answers with one of `absent`."""
    try:
        return describe(store, name)
    except Trouble as trouble:
        if trouble.code in absent:
            return None
        raise


def _known_digest(store, names, head, total, own):
    """[algorithm, digest, size of the parts it was made of, or 0], the best of which the store tells, or None."""
    metadata = {key.lower(): value for key, value in head.get("Metadata", {}).items()}
    if own and OUR_SHA256 in metadata:
        return ["sha256", metadata[OUR_SHA256].lower(), 0]
    whole = head.get("ChecksumType") != "COMPOSITE"
    stored = {name: head.get(f"Checksum{name.upper()}") for name in ("sha256", "sha1", "crc32")}
    stored = {name: value for name, value in stored.items() if value and whole and "-" not in value}
    encrypted = head.get("SSECustomerAlgorithm") or head.get("ServerSideEncryption", "AES256") != "AES256"
    etag = re.fullmatch(r'"?([0-9a-f]{32})(?:-(\d+))?"?', head["ETag"])
    if etag and not encrypted and "sha256" not in stored:
        count = int(etag[2] or 0)
        size = _part_size(store, names, count, total) if count else 0
        if size or not count:
            return ["md5", etag[0].strip('"'), size]
    for name, value in stored.items():
        return [name, base64.b64decode(value).hex(), 0]
    return None


def _part_size(store, names, count, total):
    """The size of the parts in which an object was uploaded, or 0 where they differ or the store does not tell."""
    try:
        first, last = (
            ask(store.client.head_object, **names, PartNumber=number)["ContentLength"] for number in (1, count)
        )
    except Trouble:
        return 0
    return first if first and (count - 1) * first + last == total else 0


def check(path, tag, what):
    """Compare a file with the digest of which `describe` learned; ValueError where it is another."""
    if not tag or not tag["check"]:
        return
    algorithm, expected, part_size = tag["check"]
    found = _digest(path, algorithm, part_size)
    if found != expected:
        raise ValueError(f"{what} is damaged or another file: its {algorithm} is {found}, not {expected}")


def _digest(path, algorithm, part_size):
    """Hexadecimal; with a part size, the digest of the parts' digests and their count, as S3's tags have it."""
    with Path(path).open("rb") as file:
        if algorithm == "crc32":
            return f"{functools.reduce(lambda crc, block: zlib.crc32(block, crc), _blocks(file), 0):08x}"
        if not part_size:
            return _hash(algorithm, _blocks(file)).hexdigest()
        parts = []
        while file.peek(1):
            parts.append(_hash(algorithm, _blocks(file, part_size)).digest())
    return f"{_hash(algorithm, parts).hexdigest()}-{len(parts)}"


def _hash(algorithm, blocks):
    digest = hashlib.new(algorithm, usedforsecurity=False)
    for block in blocks:
        digest.update(block)
    return digest


def _blocks(file, limit=float("inf")):
    while limit and (block := file.read(int(min(BLOCK, limit)))):
        limit -= len(block)
        yield block


@contextlib.contextmanager
def source(store, name, part_size, start, known):
    """An object as a source of `storage`: (first, total, tag, body), where `first` is 0 if it is not the `known` one."""
    total, tag = describe(store, name)
    same = known and (known["tag"], known["total"]) == (tag, total)
    body = _Parts(store, name, start if same else 0, total, tag["etag"], part_size)
    try:
        yield body.position, total, tag, body
    finally:
        body.close()


class _Parts:
    """An object from a byte on as something to read, asked for part by part; all parts must be of the same object."""

    def __init__(self, store, name, position, total, etag, part_size):
        self.store, self.name, self.etag, self.part_size = store, name, etag, part_size
        self.position, self.end, self.total, self.body = position, position, total, None

    def read(self, count):
        if self.position == self.total:
            return b""
        if self.position == self.end:
            self._ask_for_part()
        block = ask(self.body.read, min(count, self.end - self.position))
        if not block:
            raise Trouble("the connection broke", "resume")
        self.position += len(block)
        return block

    def _ask_for_part(self):
        self.close()
        self.end = min(self.position + self.part_size, self.total)
        span = f"{self.position}-{self.end - 1}"
        named = {"Bucket": self.store.bucket, "Key": self.store.key(self.name), "Range": f"bytes={span}"}
        answer = ask(self.store.client.get_object, **named, IfMatch=self.etag)
        self.body = answer["Body"]
        # Some stores heed Range and ignore If-Match.
        if (answer.get("ETag"), answer.get("ContentRange")) != (self.etag, f"bytes {span}/{self.total}"):
            raise Trouble("the object changed since the download began", "restart")

    def close(self):
        if self.body is not None:
            self.body.close()
