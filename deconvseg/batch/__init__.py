"""Folder runs: many photos from files to results, resumable, shared out to shards or a Ray cluster."""

from deconvseg.batch.run import FolderRun, segment_folder
from deconvseg.batch.work import Options

__all__ = ["FolderRun", "Options", "segment_folder"]
