"""Labels as the archive that the PASCAL VOC evaluation server takes.

References
----------
Everingham et al., The PASCAL Visual Object Classes Challenge 2012 Development Kit, section 5.3.
"""

from __future__ import annotations

import gzip
import io
import tarfile

import numpy as np

from drstool.artifacts.atomic import new_file
from drstool.data.sbd import CLASS_NAMES
from drstool.errors import InputError, UsageError
from drstool.exchange.exports import Export
from drstool.exchange.labels_out import Labelled, open_labels
from drstool.formats.label_png import encode_label_png
from drstool.identifiers import Names, member_name
from drstool.labels import BACKGROUND
from drstool.reports.text import counted

__all__ = ["FOLDER", "export_voc_server"]

# Competition 6: segmentation, trained on any data.
FOLDER = "results/VOC2012/Segmentation/comp6_test_cls"
_ENDINGS = (".tar.gz", ".tgz")


def export_voc_server(export: Export) -> str:
    """``results/VOC2012/Segmentation/comp6_test_cls/<id>.png`` in a tar archive packed with gzip."""
    if not export.output.endswith(_ENDINGS):
        raise UsageError("-o", f"{export.output} does not end in {' or '.join(_ENDINGS)}", "the server takes those")
    names = Names(export.output)
    with open_labels(export, names_images=False) as labels, new_file(export.output, export.overwrite) as making:
        labels.check_narrow("the server")
        # Without a time or a name, so that the same labels give the same bytes.
        with (open(making, "wb") as file, gzip.GzipFile("", "wb", fileobj=file, mtime=0) as packed,
              tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as archive):
            for labelled, data in labels.each(_encoded):
                if "/" in labelled.id:
                    raise InputError(
                        labels.where, f"id '{labelled.id}' names a folder", "the server's files lie in one folder")
                names.add(labelled.id)
                member = tarfile.TarInfo(f"{FOLDER}/{member_name(labelled.id, '.png')}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    if labels.class_names != CLASS_NAMES:
        export.notify(["the classes are not the 20 of PASCAL VOC in their order, by which the server scores"])
    labels.tell_ignored("they are background there, as the server knows no ignored predictions")
    return f"the labels of {counted(labels.count, 'image')}"


def _encoded(labelled: Labelled) -> bytes:
    return encode_label_png(np.where(labelled.ignored, labelled.labels.dtype.type(BACKGROUND), labelled.labels))
