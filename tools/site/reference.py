"""The reference: the public headers as pages of the site.

A header is the manual of what it declares, in plain comments. Doxygen tells what is declared; the
comments are turned into reStructuredText here, and the pages have both in the header's order.
What is nobody's interface (namespace detail, private members, what archives need) is left out, and
so is the inline namespace, which users do not write.
"""
import re
import subprocess
import xml.etree.ElementTree as ET

COMPONENTS = ["core", "ipc", "pool", "manager", "cluster"]
KNOWN = (r"(?:Ownership|Threads|Processes|Fork|Peer death|Trust|Shortages|Errors|State|Limits|Order|Terminal|Wire"
         r"|Cancellation|The pool's end|Of a ManagerServer)")
LABEL = re.compile(rf"^({KNOWN}(?:, {KNOWN})*|[A-Z][\w']+(?: [\w']+){{0,2}}(?=:  )):(?:\s+|$)")
# Where a label stands in the line of another.
NEXT_LABEL = re.compile(rf"(?<=\.) (?={KNOWN}: )")
# The headers that have a page; to be filled before pages are made.
PAGES = set()
# What is a name in prose: a call, a qualified name, a template, words with underscores, a header, a page.
NAME = re.compile(
    r"(?<![\w`.~&*=>])(\.\w+ = [\w:]+|(?:\w+::)*~?\w{2,}\((?!s\))[\w, .&*]*\)|(?:\w+::)*\w+<[\w:, *]+>(?:\([^()]*\))?|(?:\w+::)+~?\w+"
    r"|(?:\w+/)?\w+\.hpp|(?:docs/[\w/-]+|CONTRIBUTING)\.md|\w+(?:_\w+)+)(?![\w`(<])")
# What users name and is declared in a header of detail/: shown with the header that includes it.
PARTS = {"queue": "queue_core", "stream": "stream_engine"}
# Classes of namespace detail whose members are those of public classes: how they are shown.
FACES = {"TypedQueue": ("template <class T> ", "TypedQueue"), "PutsItems": ("template <class T> ", "PutsItems"),
         "QueueProducer": ("template <class T> ", "QueueProducer"), "SemaphoreBase": ("", "SemaphoreBase"),
         "LockableProxy": ("template <class Object> ", "LockableProxy"),
         "StreamEngine": ("template <class F, class Range, bool kSpread> ", "Stream")}
A_FACE = re.compile(rf"class ({'|'.join(FACES)})\b(?!.*;)")

# --- comments to reStructuredText ----------------------------------------------------------------


def mark(name):
    """A name in prose; that of a header leads to its page, and so does that of a page."""
    if name.endswith(".md"):
        return f":doc:`/{name.removeprefix('docs/').removesuffix('.md')}`"
    stem = name.rsplit("/", 1)[-1].removesuffix(".hpp")
    return f":doc:`{name} </reference/{stem}>`" if name.endswith(".hpp") and stem in PAGES else f"``{name}``"


def escape(text):
    """A line of a comment: what is a name in it looks like one."""
    parts = re.split(r"(`[^`]+`)", text)
    for i, part in enumerate(parts):
        if part.startswith("`"):
            parts[i] = f"``{part.strip('`')}``"
            if re.match(r"\w", parts[i + 1]):
                parts[i + 1] = " " + parts[i + 1]
            continue
        part = re.sub(r"([\\*|])", r"\\\1", part)
        part = re.sub(r"(?<![\w\\])\\\*(\w[\w ]*)\\\*(?!\w)", r"*\1*", part)  # *stressed*
        part = re.sub(r"(?<=\w)_(?!\w)", r"\\_", part)
        parts[i] = NAME.sub(lambda m: mark(m[1].replace("\\", "")), part)
    return "".join(parts)


def table(lines):
    """A table with bars; one line of the header's is one row or, with an empty first cell or after one that
    ends in a comma, more of it."""
    rows = []
    bars = all(line.strip().startswith("|") for line in lines)
    for line in lines:
        line = line.strip().strip("|") if bars else line.strip()
        if re.fullmatch(r"[-|+\s]+", line):
            continue
        cells = [cell.strip() for cell in line.split("|")]
        if len(rows) > 1 and rows[-1][0] and (not cells[0] or rows[-1][0].endswith(",")):
            rows[-1] = [f"{a} {b}".strip() for a, b in zip(rows[-1], cells)]
        else:
            rows.append(cells)
    width = max(len(row) for row in rows)
    out = [".. list-table::", "   :header-rows: 1", ""]
    for row in rows:
        row += [""] * (width - len(row))
        for i, cell in enumerate(row):
            cell = "\\-" if cell == "-" else escape(cell)
            out.append(f"   {'* -' if i == 0 else '  -'} {cell}".rstrip())
    return out + [""]


def definitions(lines):
    """Lines that explain a word each ("wait    waits without limit"), or nothing if they do not."""
    out = []
    for line in lines:
        found = re.match(r"\s+(\S+)\s{2,}(\S.*)$", line)
        if found and not re.search(r"[;{}]$|//", line):
            out.append(f"| ``{found[1].rstrip('`').lstrip('`')}``: {escape(found[2])}")
        elif out and re.match(r"\s{8,}\S", line) and not re.search(r"[;{}]$|//", line):
            out[-1] += " " + escape(line.strip())
        else:
            return []
    return ["", *out, ""]


def to_rst(lines):
    """The lines of a comment, without their slashes."""
    out, i = [], 0
    lines = [part for line in lines for part in (NEXT_LABEL.split(line) if LABEL.match(line) else [line])]
    while i < len(lines):
        line = lines[i]
        indent = len(line) - len(line.lstrip())
        if not line.strip():
            out.append("")
            i += 1
        elif line.count("|") >= 2 or (line.count("|") == 1 and i + 1 < len(lines)
                                      and re.search(r"-\|-", lines[i + 1])):
            end = i
            while end < len(lines) and ("|" in lines[end] or re.fullmatch(r"\s*[-|]+\s*", lines[end])):
                end += 1
            out += [""] + table(lines[i:end])
            i = end
        elif LABEL.match(line):
            label = LABEL.match(line)
            title, rest = line.split(":", 1)
            body, end = [rest.strip()], i + 1
            while end < len(lines) and lines[end].startswith("   "):
                body.append(lines[end])
                end += 1
            if not body[-1].endswith("."):  # its sentence goes on without an indent
                while end < len(lines) and lines[end].strip() and not LABEL.match(lines[end]):
                    body.append(lines[end])
                    end += 1
            base = min((len(b) - len(b.lstrip()) for b in body[1:]), default=0)
            body = [body[0]] + [b[base:] for b in body[1:]]
            text = to_rst(body)
            while text and not text[0].strip():
                text.pop(0)
            out += ["", title] + [f"   {b}".rstrip() for b in text] + [""]
            i = end
        elif re.match(r"\s*(-|\d\.) ", line):
            mark = re.match(r"\s*(-|\d\.) ", line)
            item, end = [line[mark.end():]], i + 1
            while end < len(lines) and lines[end].strip() and \
                    len(lines[end]) - len(lines[end].lstrip()) > indent:
                item.append(lines[end])
                end += 1
            base = min((len(b) - len(b.lstrip()) for b in item[1:]), default=0)
            if out and out[-1].strip() and not re.match(r"(- |\d\. |  )", out[-1]):
                out.append("")
            text = to_rst([item[0]] + [b[base:] for b in item[1:]])
            out += [f"{mark[1]} {text[0]}"] + [f"{' ' * (len(mark[1]) + 1)}{t}".rstrip()
                                               for t in text[1:]]
            if end < len(lines) and lines[end].strip() and not re.match(r"\s*(-|\d\.) ", lines[end]):
                out.append("")
            i = end
        elif indent >= 2 and (i == 0 or not lines[i - 1].strip() or lines[i - 1].rstrip()[-1:] in ":."):
            end = i
            while end < len(lines) and (not lines[end].strip() or
                                        len(lines[end]) - len(lines[end].lstrip()) >= 2):
                end += 1
            code = lines[i:end]
            while not code[-1].strip():
                code.pop()
            terms = definitions(code)
            if terms:
                out += terms
                i = end
                continue
            language = "cpp" if re.search(r"[;{]|//", "".join(code)) else "text"
            out += ["", f".. code-block:: {language}", ""]
            out += [f"   {c[indent:]}".rstrip() if c.strip() else "" for c in code] + [""]
            i = end
        else:
            out.append(escape(line.strip()))
            i += 1
    return out


def comments_of(text):
    """(the first line's number, the lines without their slashes) of a header's comments."""
    lines, i = text.split("\n"), 0
    while i < len(lines):
        end = i
        while end < len(lines) and re.match(r"\s*//( |$)", lines[end]):
            end += 1
        if end > i:
            yield i + 1, [re.sub(r"^\s*// ?", "", line) for line in lines[i:end]]
        i = max(end, i + 1)


def code_of(comment):
    """The blocks of C++ that a comment's lines are shown with, each as its lines."""
    rst = to_rst(comment)
    for i, line in enumerate(rst):
        if found := re.match(r"( *)\.\. code-block:: cpp$", line):
            indent, code = found[1] + "   ", []
            for row in rst[i + 2:]:
                if row.strip() and not row.startswith(indent):
                    break
                code.append(row[len(indent):])
            while not code[-1].strip():
                code.pop()
            yield code


# --- headers for Doxygen -------------------------------------------------------------------------


def embed(lines, indent, file=False):
    """A comment that Doxygen passes through as it is."""
    text = [f"{indent}/// @verbatim"] + [f"{indent}/// {line}".rstrip() for line in lines]
    return ([f"{indent}/// @file"] if file else []) + text + [f"{indent}/// @endverbatim"]


def opened(out):
    """Whether what was written last is shown."""
    marks = [line for line in out if line in ("/// @cond", "/// @endcond")]
    return marks[-1:] == ["/// @endcond"]


def for_doxygen(text):
    """The header with its comments as Doxygen wants them."""
    text = text.replace("sidestep::inline v0", "sidestep")
    text = re.sub(r"^inline namespace (\w+) \{[^\n]*\n(.*?)^\}  // namespace \1\n", r"\2", text, flags=re.M | re.S)
    text = re.sub(r"template <[^\n]*>\ninline constexpr bool detail::[^;]*;", "", text)
    text = re.sub(r"(?<=\)) requires [\w:<>, ]+(?= \{)", "", text)  # with it, Doxygen takes the next one for its body
    lines, out, i, first, hidden, depth = text.split("\n"), [], 0, True, False, 0
    while i < len(lines):
        line = lines[i]
        code = re.sub(r"\s//.*|'.'|\"[^\"]*\"", "", line)
        depth += code.count("{") - code.count("}") if hidden else 0
        comment = re.match(r"(\s*)//( |$)", line)
        trailing = re.match(r"(\s*)(\S.*?)\s+// (.*)$", line)
        if comment:
            end = i
            while end < len(lines) and re.match(r"\s*//( |$)", lines[end]):
                end += 1
            body = [re.sub(r"^\s*// ?", "", c) for c in lines[i:end]]
            if re.match(r"--- .* -+$", body[0]):  # a heading between declarations
                body = body[1:]
                while body and not body[0].strip():
                    body.pop(0)
                # prose under a heading that belongs to no declaration
                if end < len(lines) and not lines[end].strip():
                    body = []
            if body and end < len(lines) and not lines[end].strip() and not first:
                body = []  # of no declaration
            if body:
                out += embed(body, comment[1], file=first)
            first, i = False, end
        elif trailing and not re.match(r"(style-ok|NOLINT|IWYU)", trailing[3]) and \
                not trailing[2].startswith(("#", "}")):
            body = [trailing[3]]
            column = line.index("// " + trailing[3])
            i += 1
            while i < len(lines) and re.match(r"\s*// ", lines[i]) and lines[i].index("//") == column:
                body.append(re.sub(r"^\s*// {1,4}", "", lines[i]))
                i += 1
            out += embed(body, trailing[1]) + [f"{trailing[1]}{trailing[2]}"]
        else:
            if line == "namespace detail {":
                hidden, depth = True, 1
                out += [line, "/// @cond"]
            elif hidden and A_FACE.match(line):  # what users' classes have from these is theirs
                at = len(out) - 1
                while re.match(r"\s*(///|template)", out[at]) and "@cond" not in out[at]:
                    at -= 1
                out.insert(at + 1, "/// @endcond")
                out.append(line)
            elif hidden and line == "};":
                out += [line] + (["/// @cond"] if opened(out) else [])
            elif hidden and depth == 0:
                hidden = False
                out += ["/// @endcond", line]
            else:
                out.append(line)
            i += 1
    return "\n".join(out)



# --- pages -----------------------------------------------------------------------------------------

SKIPPED = re.compile(r"^(save|load|serialize|CEREAL_\w+|~\w+|operator==|operator=)$")


def text_of(element, name=None):
    found = element.find(name) if name else element
    return " ".join("".join(found.itertext()).split()) if found is not None else ""


def comment_of(element):
    """The comment of a declaration, as reStructuredText."""
    blocks = []
    for part in ("briefdescription", "detaileddescription"):
        for verbatim in element.iterfind(f"{part}//verbatim"):
            text = verbatim.text.strip("\n").split("\n")
            blocks += to_rst([re.sub(r"^\s*/// ?", "", line) for line in text]) + [""]
    return blocks


def template_of(element):
    found = element.find("templateparamlist")
    if found is None:
        return ""
    parameters = []
    for param in found.findall("param"):
        words = text_of(param, "type").split()
        name = text_of(param, "declname")
        if name and words[-1] != name:
            words.append(name)
        default = text_of(param, "defval")
        parameters.append(" ".join(words) + (f" = {default}" if default else ""))
    return f"template <{', '.join(parameters)}> "


def shown(text):
    """A line of a page, by the names that users know."""
    text = re.sub(rf"\b(?:detail::)?({'|'.join(FACES)})\b", lambda m: FACES[m[1]][1], text)
    text = text.replace("const Deadline &until={}", "").replace("typename Input< Range >::Item", "Item")
    text = re.sub(r"(?<=template <)detail::\w+ (?=\w+>)", "class ", text)  # a concept
    return re.sub(r", *(?:detail::)?(?:QueueCore::Kind::\w+|kind\b)(?= *>)", "", text)


def is_public(member):
    arguments = text_of(member, "argsstring")
    return (member.get("prot") == "public" and not SKIPPED.match(text_of(member, "name"))
            and not re.search(r"\bBlank\b", arguments) and "=delete" not in arguments.replace(" ", "")
            and not (member.get("kind") == "friend" and text_of(member, "type") in ("class", "struct"))
            and "nternal" not in "".join(comment_of(member)[:1])
            and not (arguments.endswith("=default") and "&" in arguments)
            and "detail::" not in text_of(member, "type").split("<")[0]
            and not (member.get("kind") == "variable" and "detail::" in text_of(member, "type"))
            and not re.search(r"\bdetail::(?!Stored)", arguments))


def declaration(member, inner=""):
    """(directive, signature); `inner` is the namespace within sidestep that it is in: this_task::"""
    kind, name = member.get("kind"), inner + text_of(member, "name")
    type_, arguments = text_of(member, "type"), text_of(member, "argsstring")
    type_ = re.sub(r"^requires\(.*\)\s*(?=auto)", "", type_)
    for word in ("constexpr ", "inline ", "static "):
        type_ = type_.replace(word, "")
    if kind == "enum":
        return "cpp:enum-class", name
    if kind == "typedef":
        return "cpp:type", f"{template_of(member)}{name} = {type_}"
    if kind == "variable":
        value = text_of(member, "initializer")
        value = re.sub(r"^= *", " = ", value)
        return "cpp:var", f"{type_} {name}{value if len(value) < 40 else ''}"
    arguments = re.sub(r"\s*=\s*default$", "", arguments)
    arguments = re.sub(r"\bconst override$", "const", arguments)
    prefix = "explicit " if member.get("explicit") == "yes" else ""
    prefix += "static " if member.get("static") == "yes" and type_ else ""
    return "cpp:function", f"{template_of(member)}{prefix}{type_} {name}{arguments}".replace("  ", " ")


class Reference:
    def __init__(self, root, folder):
        self.root, self.folder = root, folder
        self.xml = folder / "xml"
        self.compounds = {}

    def headers(self):
        for component in COMPONENTS:
            for header in sorted((self.root / component / "include/sidestep").glob("*.hpp")):
                yield component, header

    def run_doxygen(self):
        copies = self.folder / "headers/sidestep"
        copies.mkdir(parents=True, exist_ok=True)
        for _, header in self.headers():
            (copies / header.name).write_text(for_doxygen(header.read_text()))
            if header.stem in PARTS:
                part = header.parent / f"detail/{PARTS[header.stem]}.hpp"
                (copies / part.name).write_text(for_doxygen(part.read_text()))
        (self.folder / "Doxyfile").write_text(f"""
            INPUT = {copies.parent}
            STRIP_FROM_PATH = {copies.parent}
            OUTPUT_DIRECTORY = {self.folder}
            GENERATE_HTML = NO
            GENERATE_LATEX = NO
            GENERATE_XML = YES
            XML_PROGRAMLISTING = NO
            EXTRACT_ALL = YES
            RECURSIVE = YES
            MACRO_EXPANSION = NO
            AUTOLINK_SUPPORT = NO
            QUIET = YES
            WARN_AS_ERROR = YES
            """)
        subprocess.run(["doxygen", str(self.folder / "Doxyfile")], check=True)

    def read(self, refid):
        if refid not in self.compounds:
            self.compounds[refid] = ET.parse(self.xml / f"{refid}.xml").getroot()[0]
        return self.compounds[refid]

    def member_lines(self, member, indent, inner=""):
        directive, signature = declaration(member, inner)
        out = [f"{indent}.. {directive}:: {signature}", ""]
        out += [f"{indent}   {line}".rstrip() for line in comment_of(member)]
        for value in member.findall("enumvalue"):
            initial = text_of(value, "initializer")
            out += ["", f"{indent}   .. cpp:enumerator:: {text_of(value, 'name')} {initial}".rstrip(), ""]
            out += [f"{indent}      {line}".rstrip() for line in comment_of(value)]
        return out + [""]

    def class_lines(self, refid, indent=""):
        compound = self.read(refid)
        name = text_of(compound, "compoundname")
        bases = [shown(text_of(base)) for base in compound.findall("basecompoundref")
                 if base.get("prot") == "public"]
        bases = [base for base in bases if "detail::" not in base]
        short = name if not indent else name.rsplit("::", 1)[1]
        specialised = re.search(r"<.*>$", short)
        prefix = template_of(compound) or ("template <> " if specialised else "")
        face = FACES.get(name.rsplit("::", 1)[1]) if "detail::" in name else None
        if face:
            prefix = face[0]
            bases = [base.split("<")[0].strip() if face[1] in base else base for base in bases]
        kind = "cpp:struct" if compound.get("kind") == "struct" else "cpp:class"
        heritage = f" : public {', public '.join(bases)}" if bases else ""
        heritage = heritage if len(heritage) < 120 else ""
        out = [f"{indent}.. {kind}:: {prefix}{short}{heritage}", ""]
        comment = comment_of(compound)
        if "nternal" not in "".join(comment[:1]):
            out += [f"{indent}   {line}".rstrip() for line in comment]
        items = []
        for section in compound.findall("sectiondef"):
            for member in section.findall("memberdef"):
                if is_public(member):
                    items.append((int(member.find("location").get("line")), member))
        for inner in compound.findall("innerclass"):
            if inner.get("prot") == "public" and not inner.text.endswith(("Iterator", "iterator")) and \
                    "nternal" not in "".join(comment_of(self.read(inner.get("refid")))[:1]):
                items.append((int(self.read(inner.get("refid")).find("location").get("line")),
                              inner.get("refid")))
        for _, item in sorted(items, key=lambda pair: pair[0]):
            if isinstance(item, str):
                out += self.class_lines(item, indent + "   ")
            else:
                out += self.member_lines(item, indent + "   ")
        return out

    def page(self, header):
        """The page of a header, and whether there is anything for users in it."""
        refid = header.name.replace("_", "__").replace(".", "_8")
        compound = self.read(refid)
        out = [header.name, "=" * len(header.name), "", ".. code-block:: cpp", "",
               f"   #include <sidestep/{header.name}>", ""] + comment_of(compound)
        items = []
        if header.stem in PARTS:  # in front
            part = self.read(f"{PARTS[header.stem].replace('_', '__')}_8hpp")
            items = [(0, None, inner.get("refid")) for inner in part.findall("innerclass")
                     if not inner.text.startswith("sidestep::detail::")
                     or A_FACE.match("class " + inner.text.split("<")[0].rsplit("::", 1)[1])]
        classes = {inner.text: inner for inner in compound.findall("innerclass")}
        for name, inner in classes.items():
            parent, last = name.split("<")[0].rsplit("::", 1)
            if "detail" in parent and not A_FACE.match("class " + last):
                continue
            if inner.get("prot") != "private" and parent not in classes:
                line = int(self.read(inner.get("refid")).find("location").get("line"))
                items.append((line, None, inner.get("refid")))
        for namespace in sorted(self.xml.glob("namespacesidestep*.xml")):
            space = self.read(namespace.stem)
            if "detail" in text_of(space, "compoundname"):
                continue
            for member in space.iterfind("sectiondef/memberdef"):
                place = member.find("location")
                if place.get("file").endswith(f"/{header.name}") and is_public_free(member):
                    items.append((int(place.get("line")), text_of(space, "compoundname"), member))
        space_now = ""
        for _, space, item in sorted(items, key=lambda item: item[0]):
            wanted = "" if isinstance(item, str) else space.split("::")[0]
            if wanted != space_now:
                out += [f".. cpp:namespace:: {wanted or 'NULL'}", ""]
                space_now = wanted
            out += (self.class_lines(item) if isinstance(item, str) else
                    self.member_lines(item, "", "".join(f"{name}::" for name in space.split("::")[1:])))
        return [shown(line) for line in out], bool(items)


def is_public_free(member):
    name = text_of(member, "name")
    internal = "nternal" in "".join(comment_of(member)[:1])
    return not SKIPPED.match(name) and not internal and "detail" not in text_of(member, "type")
