"""What to do about the errors of S3 stores and of boto3, by their code, status or kind."""

_SET_KEY = "set AWS_ACCESS_KEY and AWS_SECRET_KEY in .env, or KDLIB_S3_UNSIGNED=1 if the bucket is public"
_WRONG_KEY = f"the store refuses the key: {_SET_KEY}"
_DENIED = (
    f"the key may not do this, or there is no such object: {_SET_KEY}; KDLIB_S3_REQUESTER_PAYS=1 if the bucket has its readers "
    "pay"
)
_CHECKSUMS = (
    "the store does not accept the request; one that does not know checksum headers needs "
    "AWS_REQUEST_CHECKSUM_CALCULATION=when_required in .env"
)
_SSO = "the profile's sign-in has expired, or never was: run aws sso login"
_NO_OBJECT = "the bucket has no such object: check the name, and KDLIB_S3_PREFIX in .env"
NO_STORE = "this is not an S3 store: check AWS_ENDPOINT_URL_S3 in .env, and the proxy if there is one"
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
    "ParamValidationError": "the name of the bucket or object is not valid in S3: check KDLIB_S3_BUCKET in .env",
    "400": _CHECKSUMS,
    "501": _CHECKSUMS,
    "XAmzContentSHA256Mismatch": _CHECKSUMS,
    "UnauthorizedSSOTokenError": _SSO,
    "SSOTokenLoadError": _SSO,
    "TokenRetrievalError": _SSO,
    "ResponseParserError": NO_STORE,
    "RecursionError": NO_STORE,  # botocore follows a redirection without a region forever
    "SSLError": "no secure connection: check that AWS_ENDPOINT_URL_S3 and its certificate are right",
}
