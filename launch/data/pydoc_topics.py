"""The help topics as a tensorflow-datasets builder, and the loader that trusts its own text only.

Records are ArrayRecords and read as a data source, in plain Python: reading through `tf.data` would
wake TensorFlow's devices, and a mesh of virtual CPUs must be started before that. So TensorFlow is
not even imported here. Nothing opens a network connection.
"""

import contextlib
import io
import platform
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import tensorflow_datasets as tfds
from absl import logging
from google.protobuf.json_format import ParseError

from launch.data.errors import DataError
from launch.data.topics import Corpus, pydoc_corpus

_DIGITS = 16  # of the digest, in the config's name: 64 bits, which do not meet by chance


class PydocTopics(tfds.core.GeneratorBasedBuilder):
    """Help topics of CPython, each paragraph once, split by whole topics.

    The builder's config is named after the digest of the text, so that what was prepared from
    another Python version's text lies elsewhere and is never taken for this one's.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "First release."}

    def __init__(self, *, corpus: Corpus | None = None, **kwargs: object) -> None:
        """Describe the data set of one text.

        Args:
            corpus: the text; that of the Python that runs, if none is given.
            **kwargs: passed to `tfds.core.GeneratorBasedBuilder`, such as `data_dir`.
        """
        self._corpus = pydoc_corpus() if corpus is None else corpus
        config = tfds.core.BuilderConfig(name=config_name(self._corpus))
        super().__init__(config=config, file_format="array_record", **kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            description="The help topics of CPython's pydoc_data.topics, each paragraph once.",
            features=tfds.features.FeaturesDict(
                {"topic": tfds.features.Text(), "text": tfds.features.Text()}
            ),
            homepage="https://docs.python.org/3/library/pydoc.html",
            license="Python Software Foundation License Version 2",
        )

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Iterator[tuple[str, dict[str, str | bytes]]]]:
        del dl_manager  # there is nothing to download
        return {
            "train": self._generate_examples(self._corpus.train),
            "heldout": self._generate_examples(self._corpus.heldout),
        }

    def _generate_examples(self, texts) -> Iterator[tuple[str, dict[str, str | bytes]]]:
        for name, text in texts.items():
            yield name, {"topic": name, "text": text}


def config_name(corpus: Corpus) -> str:
    """Name of the builder's config for a text, by the first digits of its digest.

    >>> config_name(Corpus({"a": b"xyz"}, {"b": b"w"}))
    'text_f81a2294af832e62'
    """
    return f"text_{corpus.digest[:_DIGITS]}"


def load_topics(data_dir: str | Path) -> Corpus:
    """The help topics of the Python that runs, prepared in a directory at the first call.

    Several processes may call it at once.

    Args:
        data_dir: where prepared data lies or shall lie; `~` is the home directory.

    Returns:
        The corpus as read back, equal to `pydoc_corpus()`.

    Raises:
        DataError: the directory cannot be read or written, holds the text of another Python
            version, or holds damaged data; or this Python has no help topics.
    """
    corpus = pydoc_corpus()
    root = Path(data_dir).expanduser()
    prepared = _prepared(root)
    if not prepared:
        _prepare(corpus, root)
    elif config_name(corpus) not in prepared:
        raise DataError(
            "the prepared data is the text of another Python version.\n"
            f"  directory    {root / PydocTopics.name}\n"
            f"  prepared     {' '.join(prepared)}\n"
            f"  this Python  {config_name(corpus)} ({platform.python_version()})\n"
            "  fix: run the Python that prepared it, choose another data_dir, or delete the\n"
            "       directory to start anew"
        )
    return _read(corpus, root)


def _prepared(root: Path) -> list[str]:
    """Names of the configs that stand prepared in a data directory, which need not exist yet."""
    version = str(PydocTopics.VERSION)
    try:
        configs = (root / PydocTopics.name).iterdir()
        return sorted(config.name for config in configs if (config / version).is_dir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise _unusable("read", root, error) from error


def _prepare(corpus: Corpus, root: Path) -> None:
    """Write the text. Who comes second, while another process prepares it, leaves it at that."""
    download_config = tfds.download.DownloadConfig(
        try_download_gcs=False, compute_stats=tfds.download.ComputeStatsMode.SKIP
    )
    try:
        root.mkdir(parents=True, exist_ok=True)
        # tfds makes a folder for downloads even where there are none.
        with _quietly(), tempfile.TemporaryDirectory(dir=root) as downloads:
            builder = PydocTopics(corpus=corpus, data_dir=root)
            builder.download_and_prepare(download_dir=downloads, download_config=download_config)
    except OSError as error:
        if config_name(corpus) not in _prepared(root):
            raise _unusable("written", root, error) from error


def _read(corpus: Corpus, root: Path) -> Corpus:
    """Read what stands prepared, and refuse it unless it is the expected text."""
    try:
        with _quietly():
            builder = PydocTopics(corpus=corpus, data_dir=root)
        found = Corpus(*(_texts(builder, split) for split in ("train", "heldout")))
    except (ParseError, RuntimeError) as error:  # of dataset_info.json, of a record file
        raise _damaged(corpus, root, str(error)) from error
    except KeyError as error:  # tfds has nothing to say about a missing dataset_info.json
        raise _damaged(corpus, root, "dataset_info.json tells of no splits") from error
    except OSError as error:
        raise _unusable("read", root, error) from error
    if found.digest != corpus.digest:
        raise _damaged(corpus, root, "its text is not the one that its name says")
    return found


def _texts(builder: PydocTopics, split: str) -> dict[str, bytes]:
    examples = builder.as_data_source(split=split)
    texts = {example["topic"].decode(): example["text"] for example in examples}
    return {name: texts[name] for name in sorted(texts)}


def _unusable(done: str, root: Path, error: OSError) -> DataError:
    cause = error.__cause__ if isinstance(error.__cause__, OSError) else error  # tfds wraps some
    return DataError(
        f"the data directory cannot be {done}.\n"
        f"  data_dir  {root}\n"
        f"  reason    {cause.strerror or cause}\n"
        "  fix: choose another data_dir, one that this user may read and write"
    )


def _damaged(corpus: Corpus, root: Path, reason: str) -> DataError:
    return DataError(
        "the prepared data is damaged.\n"
        f"  directory  {root / PydocTopics.name / config_name(corpus)}\n"
        f"  reason     {reason}\n"
        "  fix: delete the directory; the next run prepares it anew"
    )


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Keep tfds from drawing bars, printing, and warning that our config is a custom one."""
    tfds.disable_progress_bar()
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(verbosity)
