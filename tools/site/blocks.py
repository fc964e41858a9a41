"""The code blocks of the pages: what is in a page is compiled and run.

A block of C++ that has a main() is a program of its own. Any other is a fragment: all fragments of a
page become one program, in the order of the page, so a function that one of them defines is there for
those below it. In a fragment what stands at namespace scope (functions, types, using, #include) is
told from statements by its first line; paragraphs are separated by empty lines. The statements of a
block are the body of a function, and each is run in a process of its own.

A page says more in comments in front of a block, which readers do not see:

    <!-- cpp           C++ that the next fragment needs and that would be in the way
    sidestep::Pool pool;
    -->
    <!-- file: x.cpp -->        the block is also written to the page's folder, for shell blocks
    <!-- input: text -->        a program's stdin; \\n is a newline
    <!-- status: 2 -->          the exit status that it ends with, if it is not 0
    <!-- libraries: -lx -->     what a program is linked with besides
    <!-- not run: reason -->    it is not run; the same block again counts once

The comments of public headers have blocks, too: what the reference shows as C++. Each is compiled, as
a program or as the body of a function, and not run; headers.md has what is to stand in front of them.

A block of ``output`` is what the program in front of it prints, exactly. Blocks of sh are run in the
page's folder, by sh -e. A literalinclude of a .cpp is a program, taken built from the build folder
where that has it.
"""
import os
import re
import subprocess

import reference

BLOCK = re.compile(r"^```(?:\{literalinclude\} (\S+)|(\w+))?[^\n]*\n(.*?)^```$|^<!-- (.*?)-->$", re.M | re.S)
TOP = re.compile(r"(#include|using |namespace |struct |class |template|enum |inline |static |constexpr |const bool )")
FUNCTION = re.compile(r"(?!for\b|if\b|while\b|switch\b|return\b|else\b|auto \[)[\w:<>,&* ]+[&* ]\w+\(")
CODE = {"cpp", "sh", "cmake", "ini"}


class Block:
    def __init__(self, page, line, language, text):
        self.page, self.line, self.language, self.text = page, line, language, text
        self.notes, self.hidden, self.output = {}, "", None

    def __str__(self):
        return f"{self.page}:{self.line}"

    @property
    def is_program(self):
        return self.language == "cpp" and "int main(" in self.text


def blocks_of(page, root):
    """The blocks of code of a page, with what the comments in front of each say."""
    text, blocks, notes, hidden = page.read_text(), [], {}, ""
    name = page.relative_to(root)
    for found in BLOCK.finditer(text):
        line = text.count("\n", 0, found.start()) + 2
        included, language, body, comment = found.groups()
        if comment is not None:
            if comment.startswith("cpp\n"):
                hidden += f"#line {line} \"{name}\"\n{comment[4:]}\n"
            elif ":" in comment:
                key, value = comment.split(":", 1)
                notes[key.strip()] = value.strip()
            continue
        if included:
            path = page.parent / included
            block = Block(name, line, "cpp", path.read_text())
            block.notes["example"] = path.stem
        elif language == "output":
            blocks[-1].output = body
            continue
        elif language in CODE:
            block = Block(name, line, language, body)
        else:
            continue
        block.notes.update(notes)
        block.hidden = hidden
        notes, hidden = {}, ""
        blocks.append(block)
    return blocks


def closes(line):
    """A function's head: its parentheses are closed where the body begins."""
    return line.count("(") == line.count(")") and line.endswith(("{", "}"))


def split(text, line, name):
    """(what stands at namespace scope, statements), each with its lines' numbers."""
    top, statements, paragraph, depth = [], [], [], 0

    def end():
        if not paragraph:
            return
        first = next((text for _, text in paragraph if not text.startswith(("//", "#line"))), "")
        is_top = begins_top(first)
        (top if is_top else statements).extend(
            [f'#line {paragraph[0][0]} "{name}"'] + [text for _, text in paragraph])
        paragraph.clear()

    def begins_top(row):
        return TOP.match(row) or (FUNCTION.match(row) and closes(row))

    for number, row in enumerate(text.split("\n"), line):
        if depth == 0 and begins_top(row) and not all(t.startswith(("//", "template")) for _, t in paragraph):
            end()
        depth += row.count("{") - row.count("}")
        if not row.strip() and depth <= 0:
            end()
        elif not paragraph and row.startswith("#include"):
            top.append(row)
        else:
            paragraph.append((number, row))
            # What is defined ends with its brace, or its semicolon: statements may follow at once.
            if depth == 0 and row.endswith(("}", "};", ";")) and \
                    any(begins_top(t) for _, t in paragraph[:2]):
                end()
    end()
    return top, statements


def fragments_program(fragments):
    """One program of a page's fragments: main() runs the one whose line it is given."""
    out, cases = [], []
    for block in fragments:
        hidden_top, hidden = split(re.sub(r"^#line.*\n", "", block.hidden, flags=re.M), block.line, block.page)
        top, statements = split(block.text, block.line, block.page)
        out += hidden_top + top
        if statements or hidden:
            out += [f"static void fragment_{block.line}() {{", *hidden, *statements, "}"]
            cases.append(f"    if (line == {block.line}) return fragment_{block.line}(), 0;")
    out += ["int main(int, char** argv) {", "    sidestep::init();",
            "    int line = std::atoi(argv[1]);", *cases, "    return 0;", "}"]
    return "\n".join(out) + "\n"


def blocks_of_header(header, root):
    """The blocks of code of a header's comments, as the reference shows them."""
    blocks, name = [], header.relative_to(root)
    for first, comment in reference.comments_of(header.read_text()):
        at = -1
        for code in reference.code_of(comment):
            at = next(i for i in range(at + 1, len(comment)) if comment[i].strip() == code[0].strip())
            blocks.append(Block(name, first + at, "cpp", "\n".join(code) + "\n"))
    return blocks


def around_headers(page, root):
    """{header: block} of what headers.md says to stand in front of a header's blocks."""
    found = re.finditer(r"^## (\S+)\n+```cpp\n(.*?)^```$", page.read_text(), re.M | re.S)
    text = page.read_text()
    return {part[1]: Block(page.relative_to(root), text.count("\n", 0, part.start(2)) + 1, "cpp", part[2])
            for part in found}


def header_program(blocks, around):
    """Of one program, or of fragments: each is the body of a function, which begins with the statements around."""
    out, first = split(around.text, around.line, around.page) if around else ([], [])
    if blocks[0].is_program:
        return "\n".join(out) + f'\n#line {blocks[0].line} "{blocks[0].page}"\n' + blocks[0].text
    for block in blocks:
        top, statements = split(block.text, block.line, block.page)
        out += top
        if statements:
            out += [f"auto block_{block.line}() {{", *first, *statements, "}"]
    return "\n".join(out) + "\n"


class Checker:
    """Compiles against the library of a build folder, and runs."""

    def __init__(self, root, build, work):
        self.root, self.build, self.work = root, build, work
        # Several pages are checked at once: these only grow.
        self.ran, self.compiled, self.failed = [], [], []
        self.skipped = {}  # a block's text: why it is not run
        self.environment = {**os.environ, "PKG_CONFIG_PATH": str(self.as_installed()), "LC_ALL": "C.UTF-8"}
        self.flags = self.pkg("--cflags")
        self.libraries = self.pkg("--libs")
        self.prelude = self.make_prelude()
        self.around = around_headers(root / "tools/site/headers.md", root)

    def as_installed(self):
        """A folder with a file for pkg-config that leads to the build folder."""
        text = (self.build / "meson-uninstalled/sidestep-uninstalled.pc").read_text()
        includes = " ".join(f"-I{path}" for path in sorted(self.root.glob("*/include")))
        folder = self.work / "pkgconfig"
        folder.mkdir()
        (folder / "sidestep.pc").write_text(
            re.sub(r"^(prefix=).*", rf"\1{self.build}", text, flags=re.M).replace("Cflags:", f"Cflags: {includes}"))
        return folder

    def pkg(self, what):
        done = subprocess.run(["pkg-config", what, "--static", "sidestep"], text=True, check=True,
                              capture_output=True, env=self.environment)
        return done.stdout.split()

    def command(self, arguments, **more):
        return subprocess.run(arguments, capture_output=True, text=True, errors="replace", timeout=600,
                              env=self.environment, **more)

    def compile(self, source, output, precompiled=False, libraries=()):
        """output: None: nothing is made."""
        prelude = ["-include", str(self.prelude)] if precompiled else []
        made = ["-o", str(output), *self.libraries, *libraries] if output else ["-fsyntax-only"]
        done = self.command(["g++", "-std=c++20", "-O0", "-g1", "-Wall", "-Wextra", "-Wno-unused", *prelude,
                             *self.flags, str(source), *made])
        return done.stderr if done.returncode else ""

    def make_prelude(self):
        """All headers, precompiled: fragments need not say which."""
        header = self.work / "prelude.hpp"
        names = sorted(path.name for path in self.root.glob("*/include/sidestep/*.hpp"))
        std = ["chrono", "cstdio", "cstdlib", "fstream", "iostream", "map", "mutex", "ranges", "set",
               "sstream", "string", "thread", "vector", "cereal/types/map.hpp", "csignal",
               "cereal/types/tuple.hpp", "cereal/types/vector.hpp", "cereal/types/string.hpp"]
        header.write_text("".join(f"#include <{name}>\n" for name in std) +
                          "".join(f"#include <sidestep/{name}>\n" for name in names) +
                          "using namespace std::chrono_literals;\n")
        done = self.command(["g++", "-std=c++20", "-O0", "-g1", "-Wall", "-Wextra", "-Wno-unused",
                             *self.flags, "-x", "c++-header", str(header), "-o", f"{header}.gch"])
        if done.returncode:
            raise SystemExit(f"tools/docs: the headers do not compile: g++ ends with {done.returncode}\n"
                             f"{done.stderr}")
        return header

    def fail(self, block, text):
        self.failed.append(f"{block}: {text}")
        print(f"FAIL {block}: {text}", flush=True)

    def run(self, block, arguments, folder):
        try:
            done = self.command(arguments, cwd=folder,
                                input=block.notes.get("input", "").replace("\\n", "\n"))
        except subprocess.TimeoutExpired:
            return self.fail(block, "it did not end within ten minutes")
        if done.returncode != int(block.notes.get("status", 0)):
            return self.fail(block, f"exit status {done.returncode}\n{done.stdout}{done.stderr}")
        if block.output is not None and done.stdout != block.output:
            return self.fail(block, f"it printed\n{done.stdout}but the page says\n{block.output}{done.stderr}")
        self.ran.append(block)

    def check_page(self, page, root):
        folder = self.work / page.relative_to(root).with_suffix("")
        folder.mkdir(parents=True, exist_ok=True)
        blocks = blocks_of(page, root)
        fragments = [b for b in blocks if b.language == "cpp" and not b.is_program]
        program, failed = folder / "fragments", False
        if fragments:
            source = folder / "fragments.cpp"
            source.write_text(fragments_program(fragments))
            error = self.compile(source, program, precompiled=True)
            if error:
                failed = True
                self.fail(fragments[0], f"the fragments of this page do not compile:\n{error}")
        for block in blocks:
            if "file" in block.notes:
                (folder / block.notes["file"]).write_text(block.text)
            if "not run" in block.notes:
                self.skipped.setdefault(block.text, f"{block}: {block.notes['not run']}")
            elif block.language == "sh":
                self.run(block, ["sh", "-e", "-c", block.text], folder)
            elif block.language != "cpp":
                self.fail(block, f"a block of {block.language} cannot be run: say why (<!-- not run: reason -->)")
            elif block.is_program:
                self.check_program(block, folder)
            elif not failed:
                self.run(block, [str(program), str(block.line)], folder)

    def check_program(self, block, folder):
        built = self.build / "examples" / f"example_{block.notes.get('example', '')}"
        if "example" in block.notes and built.exists():
            return self.run(block, [str(built)], folder)
        source, program = folder / f"program_{block.line}.cpp", folder / f"program_{block.line}"
        source.write_text(f'#line {block.line} "{block.page}"\n' + block.text)
        error = self.compile(source, program, libraries=block.notes.get("libraries", "").split())
        self.fail(block, error) if error else self.run(block, [str(program)], folder)

    def check_header(self, header, root):
        blocks = blocks_of_header(header, root)
        programs = [[block] for block in blocks if block.is_program]
        fragments = [block for block in blocks if not block.is_program]
        for part in programs + [fragments] * bool(fragments):
            source = self.work / f"{header.stem}_{part[0].line}.cpp"
            source.write_text(header_program(part, self.around.get(header.name)))
            error = self.compile(source, None, precompiled=True)
            if error:
                self.fail(part[0], f"the code in this header's comments does not compile:\n{error}")
            else:
                self.compiled += part

    def check_around(self, headers, root):
        """What stands in front of blocks that are there no more."""
        with_blocks = {header.name for header in headers if blocks_of_header(header, root)}
        for name in sorted(set(self.around) - with_blocks):
            self.fail(self.around[name], f"{name} has no code in its comments: drop this part")
