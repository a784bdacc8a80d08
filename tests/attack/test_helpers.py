"""The compiled helpers: nothing is loaded that somebody else could have put there."""

import ctypes
import os
import shutil
import subprocess
import sys

import pytest

from htdg.fast import compiling, native, private

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux") or shutil.which("cc") is None,
    reason="there are no compiled helpers",
)
#: Only root can give files to others.
as_root = pytest.mark.skipif(
    not hasattr(os, "getuid") or os.getuid() != 0, reason="needs to be root"
)
ANOTHER = 12345


@pytest.fixture
def nothing_loaded():
    """No helpers are loaded yet, and none stay."""
    native._library.cache_clear()
    yield
    native._library.cache_clear()


@pytest.fixture
def cache(tmp_path, monkeypatch, nothing_loaded):
    """An empty cache folder of our own; HTDG_MARCH makes compiling quick."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("HTDG_KERNELS", raising=False)
    monkeypatch.setenv("HTDG_MARCH", "x86-64")
    return tmp_path / "cache" / "htdg"


@pytest.fixture
def built(cache, tmp_path):
    """The helpers, which have been built; another library is \"evil.so\" beside the cache."""
    target = compiling.compiled_helpers()
    source = tmp_path / "evil.c"
    source.write_text("void __attribute__((constructor)) run(void) { *(int *)0 = 0; }\n")
    subprocess.run(["cc", "-shared", "-fPIC", source, "-o", tmp_path / "evil.so"], check=True)
    return target


def replaced(built, evil):
    """What stands there is built anew, and works; not what would end this process."""
    assert not private.is_ours(built)
    assert compiling.compiled_helpers() == built
    assert private.is_ours(built)
    assert built.read_bytes() != evil.read_bytes()
    assert native.library() is not None


@as_root
def test_a_library_of_another_user_is_not_loaded(built, tmp_path):
    shutil.copy(tmp_path / "evil.so", built)
    os.chown(built, ANOTHER, ANOTHER)
    replaced(built, tmp_path / "evil.so")


def test_a_link_is_not_followed(built, tmp_path):
    built.unlink()
    built.symlink_to(tmp_path / "evil.so")
    replaced(built, tmp_path / "evil.so")


def test_a_library_that_others_may_write_is_not_loaded(built, tmp_path):
    shutil.copy(tmp_path / "evil.so", built)
    built.chmod(0o722)
    replaced(built, tmp_path / "evil.so")


@as_root
def test_a_folder_of_another_user_anywhere_above_is_refused(built, tmp_path, capsys):
    (tmp_path / "cache").chmod(0o755)
    os.chown(tmp_path / "cache", ANOTHER, ANOTHER)
    assert native.library() is None
    assert native.missing().startswith(f"others may write into {tmp_path / 'cache'} (chmod go-w")


@pytest.mark.parametrize(("mode", "refused"), [(0o757, True), (0o775, True), (0o1777, False)])
def test_a_folder_above_that_others_may_write_into_is_refused(
    built, tmp_path, mode, refused, monkeypatch
):
    monkeypatch.setattr(private, "_is_our_own", lambda group: False)
    (tmp_path / "cache").chmod(mode)  # with the sticky bit it is as /tmp
    assert (native.library() is None) is refused


def test_a_group_of_the_user_alone_is_no_other(built, tmp_path):
    import grp
    import pwd

    (tmp_path / "cache").chmod(0o775)
    group, user = grp.getgrgid(os.getgid()).gr_name, pwd.getpwuid(os.getuid()).pw_name
    assert (native.library() is not None) is (group == user)


def test_whatever_the_umask_the_library_is_ours(cache):
    before = os.umask(0o002)
    try:
        target = compiling.compiled_helpers()
    finally:
        os.umask(before)
    assert private.is_ours(target)


def test_a_library_without_the_functions_is_not_used(built, tmp_path):
    source = tmp_path / "empty.c"
    source.write_text("int nothing;\n")
    subprocess.run(["cc", "-shared", "-fPIC", source, "-o", built], check=True)
    built.chmod(0o700)
    ctypes.CDLL(str(built))  # it can be loaded
    assert native.library() is None
    assert native.missing() == f"{built} lacks functions (delete it, and it is built again)"
