"""The Hub, bound to a token and a cache: look up commits, read repos, publish."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cocktail_hub.hub.explained import explained
from cocktail_hub.hub.files import HubFiles
from cocktail_hub.hub.options import HubOptions

if TYPE_CHECKING:
    from pathlib import Path

    from huggingface_hub import CommitInfo

    from cocktail_hub.hub.publication import Publication, Uploaded


@dataclass(frozen=True, kw_only=True)
class Hub(HubOptions):
    """The Hub with one token, one cache, and one answer to whether it may be asked at all."""

    def resolve(self, repo_id: str, revision: str | None, *, repo_type: str | None = None) -> str:
        """Return the 40-hex commit that `revision` points to; offline, the one it last pointed to.

        Raises:
            SourceError: no such repo or revision, no access, or not cached and the Hub is out of reach.
        """
        with explained(repo_id, revision):
            return self.api.resolve_revision(
                repo_id,
                revision=revision,
                repo_type=repo_type,
                cache_dir=self.cache_dir,
                local_files_only=self.local_files_only,
            ).resolved

    def files(self, repo_id: str, commit: str, *, repo_type: str | None = None) -> HubFiles:
        """Return the files of a repo at a commit. Nothing is requested yet."""
        return HubFiles(repo_id, commit, self, repo_type=repo_type)

    def commit(self, publication: Publication) -> CommitInfo:
        """Write files in one commit, or open one pull request. Safe to repeat (see `publish_files`)."""
        from cocktail_hub.hub.commit import publish_files

        return publish_files(publication, self)

    def make_repo(self, publication: Publication) -> None:
        """Create the repo and the branch where they are missing."""
        from cocktail_hub.hub.commit import make_repo

        make_repo(publication, self)

    def upload(self, publication: Publication, name: str, file: Path, sha256: str) -> Uploaded:
        """Upload one large file ahead of its commit (see `upload_ahead`)."""
        from cocktail_hub.hub.commit import upload_ahead

        return upload_ahead(publication, name, file, sha256, self)

    def remove_recipe(self, publication: Publication, name: str) -> None:
        """Remove a recipe file and what the card says of it, in one commit (see `forget_recipe`)."""
        from cocktail_hub.hub.commit import forget_recipe

        forget_recipe(publication, name, self)
