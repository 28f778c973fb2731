"""Files from elsewhere, over HTTP and S3: verified, resumed, and unpacked safely."""

from kdlib.storage.archives import unpack
from kdlib.storage.http import download
from kdlib.storage.objects import exists, get, get_folder, put, put_folder
from kdlib.storage.wider import fetch_wider

__all__ = ["download", "exists", "fetch_wider", "get", "get_folder", "put", "put_folder", "unpack"]
