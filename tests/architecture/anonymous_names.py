"""Names that C++ source files keep to themselves: those of anonymous namespaces, and `static` ones.

Two files of one folder must not use one such name for two things. Each file compiles alone today, so the compiler would not
notice; a reader, a debugger and a search would, and a build that joins a folder's files into one unit would silently call
the wrong one of two functions.
"""

import re

_STRINGS_AND_COMMENTS = re.compile(
    r'R"([^ ()\\\t\v\f\n]*)\(.*?\)\1"|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])+\'|//[^\n]*|/\*.*?\*/', re.DOTALL)
_TYPE = re.compile(r"^(?:template\s*<.*>\s*)?(?:class|struct|enum(?:\s+class)?|union)\s+(\w+)")
_ALIAS = re.compile(r"^using\s+(\w+)\s*=")
_FUNCTION = re.compile(r"([A-Za-z_]\w*)\s*\(")
_VARIABLE = re.compile(r"([A-Za-z_]\w*)\s*(?:\[[^\]]*\]\s*)*(?:=|\{|$)")


def _blank(match):
    return re.sub(r"[^\n]", " ", match.group(0)) if match.group(0).startswith("/") else '""'


def _declared_name(text):
    """The name that a declaration introduces; None for anything else."""
    text = " ".join(text.split())
    if not text or text.startswith(("#", "using namespace", "namespace ", "static_assert", "template <>", "friend", "}")):
        return None
    if text.startswith("using ") and "=" not in text:  # a name of another namespace, made shorter
        return None
    for pattern in (_TYPE, _ALIAS):
        if match := pattern.search(text):
            return match.group(1)
    head = re.sub(r"<[^<>()]*(?:<[^<>]*>[^<>()]*)*>", "", re.sub(r"ABSL_\w+\([^)]*\)", "", text))
    before_value = re.split(r"(?<![=<>!])=(?!=)", head)[0]
    if match := _FUNCTION.search(before_value):
        return None if "::" in head[:match.end()].split(" ")[-1] else match.group(1)
    if match := _VARIABLE.search(head):
        return match.group(1)
    return None


def private_names(text):
    """The names that one source file keeps to itself."""
    text = re.sub(r"^[ \t]*#.*(?:\\\n.*)*$", "", _STRINGS_AND_COMMENTS.sub(_blank, text), flags=re.MULTILINE)
    names, scopes, declaration = set(), [], ""

    def in_anonymous():
        return scopes and scopes[-1] == "anonymous"

    def take():
        nonlocal declaration
        private = in_anonymous() or (all(scope != "other" for scope in scopes)
                                     and declaration.lstrip().startswith("static "))
        if private and (name := _declared_name(declaration)):
            names.add(name)
        declaration = ""

    for character in text:
        if character == "{":
            if re.search(r"\bnamespace\s*$", declaration):
                scope, declaration = "anonymous", ""
            elif re.search(r"\bnamespace\s+[\w:]+\s*$", declaration):
                scope, declaration = "named", ""
            else:
                take()
                scope = "other"
            scopes.append(scope)
        elif character == "}":
            if scopes:
                scopes.pop()
            declaration = ""
        elif character == ";":
            take()
        elif not scopes or scopes[-1] != "other":
            declaration += character
    return names


def violations(files):
    """`files`: (path, text) pairs. One line for each name that two .cc files of one folder keep to themselves."""
    owners = {}
    for path, text in files:
        if not path.endswith(".cc") or not path.startswith(("attach/", "server/", "client/")):
            continue
        folder = path.rsplit("/", 1)[0]
        for name in private_names(text):
            owners.setdefault((folder, name), []).append(path)
    for (_, name), paths in sorted(owners.items()):
        if len(paths) > 1:
            yield f"{name}: {' and '.join(paths)} use one private name for two things: rename one"
