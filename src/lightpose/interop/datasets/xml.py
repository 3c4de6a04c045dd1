"""XML that other people wrote, read without what makes XML dangerous."""

from pathlib import Path
from typing import NoReturn
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from lightpose.data.coco.json_values import read_file
from lightpose.errors import UserError

_MOST_BYTES = 2**30
_DEEPEST = 100


def read_xml(path: Path, what: str) -> Element:
    """The root of an XML file.

    Raises:
        UserError: for what is no XML, and for a file that defines entities, which a few lines may swell to gigabytes or
            which may be other files.
    """
    content = read_file(path, what)
    if len(content) > _MOST_BYTES:
        raise UserError(f"{what} {path} is larger than {_MOST_BYTES >> 30} GB; split it")
    return parse_xml(content, f"{what} {path}")


def parse_xml(content: bytes, where: str) -> Element:
    """See `read_xml`."""
    builder = TreeBuilder()
    depth = 0

    def refuse(*_: object) -> NoReturn:
        raise UserError(f"{where} defines entities, which can swell or be other files; remove its DOCTYPE")

    def start(name: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > _DEEPEST:
            raise UserError(f"{where} nests its elements too deeply; write the file anew")
        builder.start(name, attributes)

    def end(name: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(name)

    parser = expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler = builder.data
    parser.EntityDeclHandler = parser.UnparsedEntityDeclHandler = parser.ExternalEntityRefHandler = refuse
    parser.buffer_text = True
    try:
        parser.Parse(content, True)
    except (expat.ExpatError, ValueError, LookupError) as error:
        raise UserError(f"{where} is not XML: {error}") from error
    return builder.close()
