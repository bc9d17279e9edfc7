# The public names, each where it comes from: for type checkers, and read by __init__.py.
from memcarve.comparing import Comparison as Comparison, Difference as Difference, compare as compare
from memcarve.errors import (
    AddressError as AddressError,
    CounterpartError as CounterpartError,
    InputError as InputError,
    LimitError as LimitError,
    MapError as MapError,
    MemcarveError as MemcarveError,
    MissingExtraError as MissingExtraError,
    MountError as MountError,
    NoSpaceError as NoSpaceError,
    NotRecognisedError as NotRecognisedError,
    OutputError as OutputError,
    OverlapError as OverlapError,
    PositionError as PositionError,
    ProcessError as ProcessError,
    RulesError as RulesError,
    SourceReadError as SourceReadError,
    TargetExistsError as TargetExistsError,
    TruncatedError as TruncatedError,
    UnreadableError as UnreadableError,
    UsageError as UsageError,
    VerificationError as VerificationError,
)
from memcarve.formats.programs.mapped_module import MappedModule as MappedModule
from memcarve.hunting.find import (
    PhysicalHit as PhysicalHit,
    find as find,
    find_physical as find_physical,
)
from memcarve.hunting.findings.finding_record import Evidence as Evidence, Finding as Finding
from memcarve.hunting.findings.hunt import Hunt as Hunt, hunt as hunt
from memcarve.hunting.owners.asking import Answer as Answer, Answers as Answers, Owners as Owners
from memcarve.hunting.owners.image_ranges import image_ranges as image_ranges
from memcarve.hunting.scanning.rules import Rules as Rules
from memcarve.hunting.scanning.scans import RuleHit as RuleHit, Scans as Scans, scan as scan
from memcarve.hunting.searched_processes import ProcessHit as ProcessHit
from memcarve.hunting.strings import FoundString as FoundString, strings as strings
from memcarve.labels import Labelling as Labelling
from memcarve.labels.modules import find_modules as find_modules
from memcarve.metadata import (
    Fault as Fault,
    Metadata as Metadata,
    Module as Module,
    Parameters as Parameters,
    Region as Region,
    Regions as Regions,
    SourceRows as SourceRows,
    Thread as Thread,
)
from memcarve.missing import Missing as Missing
from memcarve.patterns import (
    Expression as Expression,
    HexPattern as HexPattern,
    Integer as Integer,
    Pointers as Pointers,
    TextPattern as TextPattern,
    expression as expression,
    hex_pattern as hex_pattern,
    integer as integer,
    text_pattern as text_pattern,
)
from memcarve.process import (
    Container as Container,
    Location as Location,
    Platform as Platform,
    ProcessEntry as ProcessEntry,
    ProcessMemory as ProcessMemory,
    Progress as Progress,
    Selection as Selection,
)
from memcarve.report.case_document import ReportOptions as ReportOptions
from memcarve.report.written_report import write_report as write_report
from memcarve.segments import LeftOut as LeftOut, Segment as Segment, Segments as Segments
from memcarve.sinks import export as export
from memcarve.sinks.carved_folder import carve as carve
from memcarve.sinks.extract import extract as extract
from memcarve.sinks.final_name import Files as Files
from memcarve.sinks.several import write_several as write_several
from memcarve.sinks.sink import Result as Result, SinkOptions as SinkOptions
from memcarve.sinks.verify import verify as verify
from memcarve.sources import open as open  # noqa: A004 - that is what it does
from memcarve.space import AddressSpace as AddressSpace, Extent as Extent, Hit as Hit
from memcarve.version import __version__ as __version__
