"""Datasets in archives and on servers are those of the folder that they were made of."""

import errno
import functools
import http.server
import io
import shutil
import tarfile
import threading
import zipfile
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

import numpy as np
import pytest
import rasterio
from test_run import folder_data, settings
from tiny import mask_file

from rsseg.contract import InputError
from rsseg.data.files import Files
from rsseg.data.remote import fetch, open_system, url_of
from rsseg.run import train

PATTERNS = {"image": "images/{name}.*", "mask": "masks/{name}.*", "split": {"train": 0.5, "val": 0.5}}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RSSEG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder_root(folder_root, tmp_path):
    """A copy that may be changed."""
    return shutil.copytree(folder_root, tmp_path / "mine")


@pytest.fixture
def server(folder_root):
    """A server that lists the folder, and how often it was asked."""
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            asked.append(self.path)

        def do_GET(self):
            """Parts of files too, which zip archives are read by."""
            path = Path(self.translate_path(self.path))
            if "Range" not in self.headers or not path.is_file():
                super().do_GET()
                return
            first, last = self.headers["Range"].removeprefix("bytes=").split("-")
            part = path.read_bytes()[int(first) : int(last) + 1]
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{int(first) + len(part) - 1}/{path.stat().st_size}")
            self.send_header("Content-Length", str(len(part)))
            self.end_headers()
            self.wfile.write(part)

        def end_headers(self):
            self.send_header("Accept-Ranges", "bytes")
            super().end_headers()

    made = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder_root)))
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{made.server_port}", asked
    made.shutdown()


def packed(folder, path):
    kind = "zip" if path.suffix == ".zip" else "gztar"
    return shutil.make_archive(str(path).removesuffix(".tar.gz").removesuffix(".zip"), kind, folder)


def packed_inside(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "outer" / "in" / "it")
    return packed(tmp_path / "outer", tmp_path / "mine.zip") + "/in/it"


def packed_on_windows(folder, path):
    with zipfile.ZipFile(path, "w") as archive:
        for file in (file for file in folder.rglob("*") if file.is_file()):
            info = zipfile.ZipInfo("x")
            info.filename = str(file.relative_to(folder)).replace("/", "\\")
            archive.writestr(info, file.read_bytes())
    return path


def pixels(root):
    found = {}
    source = Files(str(root), **PATTERNS)
    for split in ("train", "val"):
        for scene in source.scenes(split):
            with rasterio.open(scene.image) as image, rasterio.open(mask_file(scene)) as mask:
                found[split, scene.name] = image.read().tobytes(), mask.read().tobytes()
    return found


@pytest.mark.parametrize(
    "form", ["zip", "inside", "below one folder", "tar", "tgz", "backslashes", "vsizip", "server", "vsicurl", "zip on a server"]
)
def test_a_dataset_elsewhere_is_that_of_the_folder(folder_root, tmp_path, server, form):
    address, asked = server
    (folder_root / "notes").mkdir()
    (folder_root / "notes" / "raw.tif").write_bytes(b"0" * 100)
    expected = pixels(folder_root)
    if form == "zip on a server":
        packed(folder_root, tmp_path / "mine.zip")
        shutil.move(tmp_path / "mine.zip", folder_root)
    root = {
        "zip": lambda: packed(folder_root, tmp_path / "mine.zip"),
        "below one folder": lambda: packed_inside(folder_root, tmp_path).removesuffix("/in/it"),
        "inside": lambda: packed_inside(folder_root, tmp_path),
        "tar": lambda: packed(folder_root, tmp_path / "mine.tar.gz"),
        "tgz": lambda: shutil.copy(packed(folder_root, tmp_path / "mine.tar.gz"), tmp_path / "mine.tgz"),
        "backslashes": lambda: packed_on_windows(folder_root, tmp_path / "mine.zip"),
        "vsizip": lambda: "/vsizip/" + packed(folder_root, tmp_path / "mine.zip"),
        "server": lambda: address,
        "vsicurl": lambda: f"/vsicurl/{address}/",
        "zip on a server": lambda: f"{address}/mine.zip",
    }[form]()
    assert pixels(root) == expected
    many = len(asked)
    assert pixels(root) == expected
    assert len(asked) == many, "it is copied once"
    assert not list((tmp_path / "cache").rglob("raw.tif")), "only what the patterns fit is copied"


class Bucket(http.server.BaseHTTPRequestHandler):
    """What is needed of S3: lists in pages of four (ListObjectsV2), whole objects and parts of them; each call is noted."""

    protocol_version, folder, signed = "HTTP/1.1", Path(), list[bool]()

    def log_message(self, *_):
        self.signed.append("Authorization" in self.headers)

    def answer(self, code, body, **headers):
        self.send_response(code)
        for key, value in {"ETag": '"x"', "Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT", **headers}.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def list_keys(self, prefix, delimiter, start):
        keys = sorted(path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*") if path.is_file())
        keys = [key for key in keys if key.startswith(prefix)]
        below = {key: key.removeprefix(prefix).partition("/") for key in keys}
        folders = sorted({prefix + first + "/" for first, slash, _ in below.values() if delimiter and slash})
        keys = [key for key in keys if not (delimiter and below[key][1])]
        rows = "".join(
            f"<Contents><Key>{key}</Key><LastModified>2024-01-01T00:00:00.000Z</LastModified><ETag>x</ETag>"
            f"<Size>{(self.folder / key).stat().st_size}</Size></Contents>"
            for key in keys[start : start + 4]
        )
        rows += "".join(f"<CommonPrefixes><Prefix>{folder}</Prefix></CommonPrefixes>" for folder in folders)
        more = f"<NextContinuationToken>{start + 4}</NextContinuationToken>" if start + 4 < len(keys) else ""
        cut = f"<IsTruncated>{str(bool(more)).lower()}</IsTruncated>"
        return f'<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{cut}{more}{rows}</ListBucketResult>'

    def do_GET(self):
        url = urlsplit(self.path)
        bucket, _, key = unquote(url.path).strip("/").partition("/")
        words = dict(parse_qsl(url.query))
        if bucket != "mine":
            self.answer(404, b"<Error><Code>NoSuchBucket</Code><Message>The bucket does not exist</Message></Error>")
        elif "list-type" in words:
            listed = self.list_keys(words.get("prefix", ""), words.get("delimiter"), int(words.get("continuation-token", 0)))
            self.answer(200, listed.encode(), **{"Content-Type": "application/xml"})
        elif not (self.folder / key).is_file():
            self.answer(404, b"<Error><Code>NoSuchKey</Code><Message>The key does not exist</Message></Error>")
        else:
            content = (self.folder / key).read_bytes()
            first, last = (self.headers.get("Range") or f"bytes=0-{len(content) - 1}").removeprefix("bytes=").split("-")
            part = content[int(first) : int(last) + 1]
            place = {"Content-Range": f"bytes {first}-{int(first) + len(part) - 1}/{len(content)}"}
            self.answer(*((206, part) if "Range" in self.headers else (200, part)), **place)

    def do_HEAD(self):
        self.do_GET()


@pytest.fixture
def bucket(folder_root, monkeypatch):
    """A server that answers as S3 does; the files lie in ``s3://mine/data``, and packed in ``s3://mine/data.zip``."""
    shutil.copytree(folder_root, folder_root / "bucket" / "data")
    packed(folder_root / "bucket" / "data", folder_root / "bucket" / "data.zip")
    handler = type("Handler", (Bucket,), {"folder": folder_root / "bucket", "signed": []})
    made = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=made.serve_forever, daemon=True).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{made.server_port}")
    for name, value in {"EC2_METADATA_DISABLED": "true", "REGION": "us-east-1", "SHARED_CREDENTIALS_FILE": "none"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    yield handler.signed
    made.shutdown()


@pytest.mark.parametrize("root", ["s3://mine/data", "/vsis3/mine/data/", "s3://mine/data.zip"])
@pytest.mark.parametrize("public", [False, True])
def test_a_dataset_in_a_bucket_is_that_of_the_folder(folder_root, bucket, monkeypatch, root, public):
    pytest.importorskip("s3fs").S3FileSystem.clear_instance_cache()
    keys = {"AWS_NO_SIGN_REQUEST": "YES"} if public else {"AWS_ACCESS_KEY_ID": "me", "AWS_SECRET_ACCESS_KEY": "secret"}
    for name, value in keys.items():
        monkeypatch.setenv(name, value)
    expected = pixels(folder_root / "bucket" / "data")
    assert pixels(root) == expected
    assert set(bucket) == {not public}
    many = len(bucket)
    assert pixels(root) == expected
    assert len(bucket) == many, "it is copied once"


def test_buckets_that_can_not_be_read_are_one_line(bucket, monkeypatch):
    pytest.importorskip("s3fs").S3FileSystem.clear_instance_cache()
    assert "Unable to locate credentials" in one_line("s3://mine/data")
    assert "for a public bucket set AWS_NO_SIGN_REQUEST=YES" in one_line("s3://mine/data.zip")
    monkeypatch.setenv("AWS_NO_SIGN_REQUEST", "YES")
    assert "does not exist" in one_line("s3://yours/data")
    assert "can't be read" in one_line("s3://mine/nothing")


def test_a_model_trains_on_an_archive(folder_root, tmp_path):
    root = packed(folder_root, tmp_path / "mine.zip")
    words = [word for word in folder_data(folder_root) if not word.startswith("dataset.source.root")]
    train(settings(tmp_path, *words, f"dataset.source.root={root}", "pictures=0", "steps=2"), tmp_path / "run")
    assert (tmp_path / "run" / "summary.json").is_file()


def test_an_archive_that_has_changed_is_copied_again(folder_root, tmp_path):
    root = packed(folder_root, tmp_path / "mine.zip")
    before = pixels(root)
    image = next((folder_root / "images").iterdir())
    with rasterio.open(image, "r+") as raster:
        raster.write(255 - raster.read())
    packed(folder_root, tmp_path / "mine.zip")
    assert pixels(root) != before
    assert pixels(root) == pixels(folder_root)


def one_line(root):
    with pytest.raises(InputError) as caught:
        pixels(root)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("sent", ["a page", "a part", "nothing"])
def test_a_bad_download_is_not_kept(folder_root, server, cache, sent):
    address, _ = server
    image = sorted((folder_root / "images").iterdir())[1]
    whole, expected = image.read_bytes(), pixels(folder_root)
    image.write_bytes({"a page": b"<!DOCTYPE html><p>log in", "a part": whole[: len(whole) // 2], "nothing": b""}[sent])
    assert f"images/{image.name} of {address} came damaged" in one_line(address)
    assert image.name not in {path.name for path in cache.rglob("images/*")}
    image.write_bytes(whole)
    assert pixels(address) == expected


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (PermissionError(errno.EACCES, "Access Denied"), "can't be read ([Errno 13] Access Denied): check the address"),
        (TimeoutError(), "can't be read (TimeoutError): check the address and your access rights"),
        (OSError(errno.ENOSPC, "No space left"), "can't be written (No space left): free some space"),
    ],
)
def test_a_file_that_is_refused_while_it_is_copied(server, monkeypatch, error, said):
    """What the server refuses is not taken for a fault of this machine's disk."""
    address, _ = server

    def refuse(*_):
        raise error

    system, _ = open_system(address)  # fsspec makes one for all
    monkeypatch.setattr(system, "get_file", refuse)
    assert said in one_line(address)


def test_a_copy_that_is_cut_is_made_again(folder_root, tmp_path, cache, caplog):
    root, expected = packed(folder_root, tmp_path / "mine.zip"), pixels(folder_root)
    assert pixels(root) == expected
    path = next(cache.rglob("masks/*"))
    path.write_bytes(path.read_bytes()[:-3])
    next(cache.rglob("listing.json")).write_text("{")
    assert pixels(root) == expected
    assert "1 files in" in caplog.text


def test_a_damaged_archive(folder_root, tmp_path, cache):
    """Its check sums are those of the bytes before they were packed."""
    with zipfile.ZipFile(tmp_path / "mine.zip", "w") as archive:
        for file in sorted(file for file in folder_root.rglob("*") if file.is_file()):
            archive.write(file, file.relative_to(folder_root))
    content = bytearray((tmp_path / "mine.zip").read_bytes())
    image = sorted((folder_root / "images").iterdir())[0]
    content[content.index(image.read_bytes()) + image.stat().st_size // 2] ^= 1
    (tmp_path / "mine.zip").write_bytes(content)
    assert "Bad CRC-32 for file" in one_line(tmp_path / "mine.zip")
    assert image.name not in {path.name for path in cache.rglob("images/*")}


def test_what_lies_beside_an_image_comes_with_it_and_nothing_leaves_the_folder(tmp_path):
    names = ["images/a.tif", "images/a.tfw", "images/a.tif.aux.xml", "images/ab.tif", "lists/train.txt", "other/c.tif"]
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for name in [*names, "images/../../evil.tif", ".hidden/d.tif"]:
            archive.writestr(name, name)
    files = fetch(str(tmp_path / "x.zip"), lambda path: path in ("images/a.tif", "images/ab.tif") or "evil" in path)
    found = {path.relative_to(files).as_posix() for path in files.rglob("*") if path.is_file()}
    assert found == {*names} - {"other/c.tif"}
    assert all((files / name).read_text() == name for name in found)
    assert not list(tmp_path.rglob("evil.tif"))


def test_what_can_not_be_read_is_one_line(folder_root, tmp_path, server):
    address, _ = server
    bad = tmp_path / "bad.zip"
    bad.write_bytes(b"PK no zip")
    with tarfile.open(tmp_path / "empty.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("empty"), io.BytesIO())
    for root, text in (
        (f"{address}/nothing/", "can't be read"),
        ("http://127.0.0.1:9/x", "can't be read"),
        (str(bad), "can't be read"),
        (str(tmp_path / "none.zip"), "can't be read"),
        ("az://bucket/data", "adlfs"),
        ("ftp://example.org/x", "ftp:// is not read; one of http, https"),
    ):
        with pytest.raises(InputError, match=text) as caught:
            Files(root, **PATTERNS)
        assert f"dataset.source.root={root}" in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"no file in it fits the patterns of dataset.source; it holds empty"):
        Files(str(tmp_path / "empty.tar"), **PATTERNS)


@pytest.mark.parametrize(
    ("root", "url"),
    [
        ("/vsizip//vsicurl/https://a.org/x.zip/in/it", "zip://in/it::https://a.org/x.zip"),
        ("/vsis3/bucket/data", "s3://bucket/data"),
        ("/data/x.TAR.GZ", "tar://::/data/x.TAR.GZ"),
        ("https://a.org/x.zip?download=1", "zip://::https://a.org/x.zip?download=1"),
        ("https://a.org/x.zip?download=1/in", "zip://in::https://a.org/x.zip?download=1"),
        ("s3://bucket/x.tgz", "tar://::s3://bucket/x.tgz"),
        ("https://a.org/zipped/data", "https://a.org/zipped/data"),
        ("/vsicurl/https://a.org/data", "https://a.org/data"),
    ],
)
def test_names_of_gdal(root, url):
    assert url_of(root) == url


def test_a_vrt_that_leaves_the_root_is_refused(folder_root, tmp_path):
    shutil.copytree(folder_root, tmp_path / "root")
    outside = next(iter(sorted((folder_root / "images").iterdir())))
    with rasterio.open(outside) as image:
        bands, height, width = image.count, image.height, image.width
    band = (
        '<VRTRasterBand dataType="Byte" band="{0}"><SimpleSource><SourceFilename relativeToVRT="{2}">{1}</SourceFilename>'
        "<SourceBand>{0}</SourceBand></SimpleSource></VRTRasterBand>"
    )

    def vrt(source, relative):
        inner = "".join(band.format(number + 1, source, relative) for number in range(bands))
        image = sorted((tmp_path / "root" / "images").iterdir())[0]
        path = image.with_suffix(".vrt")
        path.write_text(f'<VRTDataset rasterXSize="{width}" rasterYSize="{height}">{inner}</VRTDataset>')
        return image, path

    image, path = vrt(outside, 0)
    moved = tmp_path / "root" / "tiles" / image.name
    moved.parent.mkdir()
    shutil.move(image, moved)
    with pytest.raises(InputError, match=rf"{path.name} reads {outside}, which is not below {tmp_path / 'root'}"):
        Files(str(tmp_path / "root"), **PATTERNS)
    path.write_text(path.read_text().replace(str(outside), f"../tiles/{moved.name}").replace('VRT="0"', 'VRT="1"'))
    scenes = Files(str(tmp_path / "root"), **PATTERNS).every
    with rasterio.open(outside) as plain, rasterio.open(scenes[0].image) as read:
        np.testing.assert_array_equal(plain.read(), read.read())
    path.write_text(
        path.read_text().replace("<SimpleSource>", "<PixelFunctionLanguage>Python</PixelFunctionLanguage><SimpleSource>", 1)
    )
    with pytest.raises(InputError, match=rf"{path.name} holds a function in Python"):
        Files(str(tmp_path / "root"), **PATTERNS)
