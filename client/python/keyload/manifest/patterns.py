"""Python's patterns in the syntax of RE2, which has no lookaround and no back reference."""

import re
import re._constants as constants
import re._parser as parser

from keyload.manifest.errors import ManifestError

try:
    import re2
except ImportError:  # then the syntax tree alone decides
    re2 = None

_REFUSED = {
    constants.ASSERT: "a lookaround", constants.ASSERT_NOT: "a lookaround", constants.GROUPREF: "a back reference",
    constants.GROUPREF_EXISTS: "a conditional group", constants.ATOMIC_GROUP: "an atomic group",
    constants.POSSESSIVE_REPEAT: "a possessive repeat",
}
_MAX_REPEAT = 1000
_LOOKAHEAD_AT_END = re.compile(r"\(\?!((?:[^()\\]|\\.|\([^()?]*\))*)\)\Z")
_LOOKAHEAD_AT_REST = re.compile(r"(?:\(\?:\(\?!([^()]*)\)\)|\(\?!([^()]*)\))\(\.\+\)\Z")  # what PrefixChange makes
_LOOKBEHIND_AT_START = re.compile(r"\A\(\?<!((?:[^()|\\]|\\.)*)\)")
_NOT_A_WORD = r"(?!\w)"
_GROUP = re.compile(r"\\(\d)")


def _parse(pattern):
    try:
        return parser.parse(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise ManifestError(f"pattern {pattern!r} is not valid: {error}") from error


def _refusal(tree):
    """What RE2 cannot do with this tree, or None."""
    for operation, argument in tree:
        if operation in _REFUSED:
            return _REFUSED[operation]
        if operation in (constants.MAX_REPEAT, constants.MIN_REPEAT):
            low, high, body = argument
            if low > _MAX_REPEAT or (high is not constants.MAXREPEAT and high > _MAX_REPEAT):
                return f"more than {_MAX_REPEAT} repeats"
            parts = [body]
        elif operation is constants.SUBPATTERN:
            parts = [argument[3]]
        elif operation is constants.BRANCH:
            parts = argument[1]
        else:
            parts = []
        for part in parts:
            if (reason := _refusal(part)) is not None:
                return reason
    return None


def _literal(text):
    """The characters of a pattern that is nothing but characters, or None."""
    try:
        tree = parser.parse(text)
    except re.error:
        return None
    if any(operation is not constants.LITERAL for operation, _ in tree):
        return None
    return "".join(chr(character) for _, character in tree)


def _alternatives(text):
    """The literals of `a|b`, `(a|b)` and `x(a|b)`, or None."""
    found = re.fullmatch(r"(?:\(\?:|\()(.*)\)|([^()]*)\(([^()?]*)\)|([^()]*)", text)
    if found is None:
        return None
    inner, stem, tails, plain = found.groups()
    if stem is not None:
        texts = [stem + tail for tail in tails.split("|")]
    else:
        texts = (inner if inner is not None else plain).split("|")
    literals = [_literal(text) for text in texts]
    return None if None in literals or "" in literals else literals


def _not_starting_with(literals, empty=r"\z"):
    """A pattern that takes all of a text that starts with none of `literals`; `empty` is for the empty one."""
    by_first = {}
    for literal in literals:
        by_first.setdefault(literal[0], []).append(literal[1:])
    others = "".join(re.escape(first) for first in sorted(by_first))
    branches = [*([empty] if empty else []), f"[^{others}](?s:.*)"]
    for first, rests in sorted(by_first.items()):
        if "" not in rests:
            branches.append(re.escape(first) + _not_starting_with(rests))
    return f"(?:{'|'.join(branches)})"


def _not_ending_with(literal):
    """A pattern that takes as much as it must of what stands before, to tell that it does not end with `literal`."""
    last, rest = re.escape(literal[-1]), literal[:-1]
    return f"(?:^|[^{last}]{'|' + _not_ending_with(rest) + last if rest else ''})"


def _ends_with_word_character(pattern):
    return re.search(r"(?:(?<!\\)\w|\\[dw])\Z", pattern) is not None


def _shift(replacement, by):
    return _GROUP.sub(lambda match: f"\\{int(match.group(1)) + by}", replacement)


def to_re2(pattern, replacement=""):
    """(pattern, replacement) for RE2, which find and make the same. ManifestError names a pattern that has none."""
    original = pattern
    if pattern.endswith(_NOT_A_WORD) and _ends_with_word_character(pattern[:-len(_NOT_A_WORD)]):
        pattern = pattern[:-len(_NOT_A_WORD)] + r"\b"
    elif (ahead := _LOOKAHEAD_AT_END.search(pattern)) and (literals := _alternatives(ahead.group(1))):
        # What follows is taken to see what it is, and put back.
        before = pattern[:ahead.start()]
        replacement += f"\\{re.compile(before).groups + 1}"
        pattern = f"{before}({_not_starting_with(literals)})"
    elif (rest := _LOOKAHEAD_AT_REST.search(pattern)) and (literals := _alternatives(rest.group(1) or rest.group(2))):
        pattern = f"{pattern[:rest.start()]}({_not_starting_with(literals, empty=None)})"
    if (behind := _LOOKBEHIND_AT_START.search(pattern)) and (literal := _literal(behind.group(1))):
        replacement = r"\1" + _shift(replacement, 1)
        pattern = f"({_not_ending_with(literal)}){pattern[behind.end():]}"
    reason = _refusal(_parse(pattern.replace(r"\z", r"\Z")))
    if reason is not None:
        raise ManifestError(f"pattern {original!r} has {reason}, which RE2 has not and keyload-manifest cannot rewrite")
    check(pattern, original)
    return pattern, replacement


def check(pattern, original):
    """Compiles `pattern` with RE2 where the package is installed."""
    if re2 is None:
        return
    try:
        re2.compile(pattern)
    except re2.error as error:
        raise ManifestError(f"pattern {original!r}: RE2 does not take {pattern!r}: {error}") from error


def substitute(pattern, replacement, text):
    """As the server renames: the first occurrence of `pattern` in `text`; None where there is none."""
    if re2 is not None:
        match = re2.search(pattern, text)
    else:
        match = re.search(pattern.replace(r"\z", r"\Z"), text)
    if match is None:
        return None
    made = _GROUP.sub(lambda group: match.group(int(group.group(1))) or "", replacement)
    return text[:match.start()] + made + text[match.end():]
