"""Files from elsewhere: by HTTP (`http`) and S3 (`s3`), verified and resumed; archives unpacked safely (`archives`)."""

from kdlib.storage.archives import unpack
from kdlib.storage.http import download, exists, fetch_wider, get, get_folder, put, put_folder

__all__ = ["download", "exists", "fetch_wider", "get", "get_folder", "put", "put_folder", "unpack"]
