"""Sources of text that a run may be configured with."""

from __future__ import annotations

from dataclasses import dataclass

from launch.data.topics import Corpus


@dataclass(frozen=True, kw_only=True)
class PydocText:
    """The help topics of the Python that runs: English prose that every machine has.

    Attributes:
        data_dir: where tensorflow-datasets prepares them.
    """

    data_dir: str = "~/.cache/meshlang/data"

    def load(self) -> Corpus:
        """The topics, prepared at the first call.

        Raises:
            DataError: the directory is unusable or holds another Python version's text.
        """
        from launch.data.pydoc_topics import load_topics  # tensorflow-datasets takes a second

        return load_topics(self.data_dir)
