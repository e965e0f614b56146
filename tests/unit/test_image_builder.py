"""When the testbed builds an image again."""

import subprocess
from pathlib import Path

import pytest

from testbed.builder import _key


@pytest.mark.parametrize("ignored", ["", "context/\n"], ids=["known to git", "ignored by git"])
def test_an_image_is_built_again_when_a_file_that_it_copies_has_changed(tmp_path: Path, ignored: str) -> None:
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    (tmp_path / ".gitignore").write_text(ignored)
    context = tmp_path / "context"
    (context / "src").mkdir(parents=True)
    (context / "Dockerfile").write_text("FROM scratch\nCOPY src /src\n")
    keys = []

    for content in ("one", "one", "another"):
        (context / "src" / "file").write_text(content)
        keys.append(_key("image", context / "Dockerfile", context))

    assert keys[0] == keys[1] != keys[2]
