// What to start and how: Args, Environment, the redirections, and Options, one plain struct for
// Popen, run() and its relatives. Field names, order, defaults and meanings are those of Python's
// subprocess.Popen (std_in for stdin, which is a macro in C).
//
// Threads: values. Reading the parent's environment (extend) is as safe as getenv(3): not while
//          another thread calls setenv.
// Errors:  everything is validated once, before a child exists: std::invalid_argument names the
//          field, the cause and the remedy.
// Limits:  Windows' own startupinfo and creationflags do not exist here.
#pragma once

#include <concepts>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <initializer_list>
#include <iterator>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <sidestep/subprocess_pipes.hpp>
#include <sidestep/timeout.hpp>

namespace sidestep::inline v0::subprocess {

// --- the command -----------------------------------------------------------------------------

// One word of a command line: a string or a path. Any bytes but NUL.
class Argument {
  public:
    Argument(const char* text) : text_(text) {}
    Argument(std::string text) : text_(std::move(text)) {}
    Argument(std::string_view text) : text_(text) {}
    Argument(const std::filesystem::path& path) : text_(path.native()) {}

    const std::string& str() const& { return text_; }
    std::string&& str() && { return std::move(text_); }

  private:
    std::string text_;
};

// A command: a list of words, or a single string or path. A single string is the name of the
// program, never split into words; with Options::shell it is the shell's command line.
class Args {
  public:
    enum class Form { list, string, path };

    Args(std::initializer_list<Argument> words);
    Args(std::vector<std::string> words) : words_(std::move(words)) {}
    // Any range of words. (Said without <ranges>, which is larger than all of this.)
    template <class Range>
    requires requires(Range& words) {
        { *std::ranges::begin(words) } -> std::convertible_to<Argument>;
        std::ranges::end(words);
    } &&(!std::convertible_to<Range, std::filesystem::path>)&&(
        !std::same_as<std::remove_cvref_t<Range>, Args>)&&(!std::same_as<std::remove_cvref_t<Range>,
                                                                         std::vector<std::string>>)
        Args(Range&& words) {
        for (auto&& word : words)
            words_.push_back(Argument(std::forward<decltype(word)>(word)).str());
    }
    Args(const char* command) : words_{command}, form_(Form::string) {}
    Args(std::string command) : words_{std::move(command)}, form_(Form::string) {}
    Args(std::string_view command) : words_{std::string(command)}, form_(Form::string) {}
    Args(const std::filesystem::path& program) : words_{program.native()}, form_(Form::path) {}

    const std::vector<std::string>& words() const { return words_; }
    Form form() const { return form_; }
    // As one would type it into a shell: each word quoted where it must be.
    std::string describe() const;

    friend bool operator==(const Args&, const Args&) = default;

  private:
    std::vector<std::string> words_;
    Form form_ = Form::list;
};

// `word` quoted for /bin/sh, as Python's shlex.quote: it stays one word, whatever it contains.
std::string shell_quote(std::string_view word);

// The environment of a child. The constructors *replace* the parent's; extend() starts from the
// parent's, as it is when the child starts. Names must not be empty nor contain '=' or NUL.
class Environment {
  public:
    Environment() = default;  // an empty environment
    Environment(std::initializer_list<std::pair<std::string, std::string>> variables);
    static Environment extend(
        std::initializer_list<std::pair<std::string, std::string>> variables = {});

    Environment& set(std::string name, std::string value);  // replaces an earlier value
    Environment& remove(std::string name);                  // of the parent's as well

    bool extends_parent() const { return extends_; }
    // In the order of their setting; no value: the variable is removed.
    using Changes = std::vector<std::pair<std::string, std::optional<std::string>>>;
    const Changes& changes() const { return changes_; }

  private:
    Changes changes_;
    bool extends_ = false;
};

// --- redirections ----------------------------------------------------------------------------

struct InheritTag {
    explicit InheritTag() = default;
};
struct PipeTag {
    explicit PipeTag() = default;
};
struct DevNullTag {
    explicit DevNullTag() = default;
};
struct StdoutTag {
    explicit StdoutTag() = default;
};

inline constexpr InheritTag INHERIT{};  // the parent's own stream (the default)
inline constexpr PipeTag PIPE{};        // a new pipe, whose other end is in Popen
inline constexpr DevNullTag DEVNULL{};  // /dev/null
inline constexpr StdoutTag STDOUT{};    // std_err only: wherever std_out goes

// Where a standard stream of the child comes from or goes to. A descriptor, a FILE* and another
// child's pipe are borrowed: they stay open in the parent, and are its to close. A FILE* is not
// flushed.
class Redirect {
  public:
    enum class Kind { inherit, pipe, devnull, stdout_, fd };
    Kind kind() const { return kind_; }
    int fd() const { return fd_; }

  protected:
    explicit Redirect(Kind kind, int fd = -1) : kind_(kind), fd_(fd) {}
    static int fd_of(std::FILE* file);           // throws if it has no descriptor
    static int fd_of(const PipeReader& reader);  // throws if closed, or if bytes were read ahead
    static int fd_of(const PipeWriter& writer);  // throws if closed

  private:
    Kind kind_;
    int fd_;
};

class InputRedirect : public Redirect {
  public:
    InputRedirect(InheritTag = INHERIT) : Redirect(Kind::inherit) {}
    InputRedirect(PipeTag) : Redirect(Kind::pipe) {}
    InputRedirect(DevNullTag) : Redirect(Kind::devnull) {}
    InputRedirect(int fd) : Redirect(Kind::fd, fd) {}
    InputRedirect(std::FILE* file) : Redirect(Kind::fd, fd_of(file)) {}
    InputRedirect(const PipeReader& output_of_another)
        : Redirect(Kind::fd, fd_of(output_of_another)) {}
};

class OutputRedirect : public Redirect {
  public:
    OutputRedirect(InheritTag = INHERIT) : Redirect(Kind::inherit) {}
    OutputRedirect(PipeTag) : Redirect(Kind::pipe) {}
    OutputRedirect(DevNullTag) : Redirect(Kind::devnull) {}
    OutputRedirect(int fd) : Redirect(Kind::fd, fd) {}
    OutputRedirect(std::FILE* file) : Redirect(Kind::fd, fd_of(file)) {}
    OutputRedirect(const PipeWriter& input_of_another)
        : Redirect(Kind::fd, fd_of(input_of_another)) {}

  protected:
    using Redirect::Redirect;
};

class ErrorRedirect : public OutputRedirect {
  public:
    using OutputRedirect::OutputRedirect;
    ErrorRedirect(InheritTag = INHERIT) : OutputRedirect(INHERIT) {}
    ErrorRedirect(StdoutTag) : OutputRedirect(Kind::stdout_) {}
};

// A descriptor for the child: under its own number, or under another, which must be below the
// limit on open files (ulimit -n).
struct PassFd {
    PassFd(int same) : parent(same), child(same) {}
    PassFd(int parent_fd, int child_fd) : parent(parent_fd), child(child_fd) {}
    int parent;
    int child;
};

// --- identity, limits, stopping --------------------------------------------------------------

// A user or a group: a number, or a name that is looked up when the child is started.
class Identity {
  public:
    template <std::integral Number>
    Identity(Number number) : number_(static_cast<long long>(number)) {}
    Identity(const char* name) : is_name_(true), name_(name) {}
    Identity(std::string name) : is_name_(true), name_(std::move(name)) {}

    bool is_name() const { return is_name_; }
    long long number() const { return number_; }
    const std::string& name() const { return name_; }

  private:
    bool is_name_ = false;
    long long number_ = -1;
    std::string name_;
};

enum class Resource {
    address_space,
    core_file,
    cpu_seconds,
    data,
    file_size,
    locked_memory,
    message_queues,
    nice,
    open_files,
    processes,
    realtime_priority,
    realtime_microseconds,
    resident,
    pending_signals,
    stack,
};
inline constexpr std::uint64_t kUnlimited = ~std::uint64_t{0};

// One limit of setrlimit(2), in its units. No `hard`: the same as `soft`.
struct ResourceLimit {
    Resource resource = Resource::core_file;
    std::uint64_t soft = kUnlimited;
    std::optional<std::uint64_t> hard = {};
};

// How to end a child, as data: each step sends a signal (0: none) and waits for the end; the next
// step comes if it is still there. A wait without a value has no limit.
struct StopStep {
    int signal = 0;
    std::optional<Timeout> wait = {};
};
using StopLadder = std::vector<StopStep>;
// Waits 2 s, sends SIGTERM and waits 3 s, sends SIGKILL and waits.
StopLadder default_stop_ladder();

// What ~Popen does with a child that still runs, after it has closed the pipes.
//   wait    waits without limit (Python's `with`): the default, since it neither kills nor leaks
//   stop    climbs Options::stop_ladder
//   kill    SIGKILL, then waits
//   detach  leaves it alone; the zombie is reaped when a later Popen starts or ends
enum class OnDestroy { wait, stop, kill, detach };

// What text mode does with bytes that are not text in the encoding, as Python's error handlers.
//   strict            throws DecodeError
//   replace           U+FFFD for each bad sequence ('?' when encoding input)
//   ignore            leaves them out
//   backslashreplace  \xNN for each bad byte
//   surrogateescape   passes the bytes through as they are
// Where the encoding of input has no character for that either, DecodeError is thrown after all.
enum class CodecErrors { strict, replace, ignore, backslashreplace, surrogateescape };

// --- Options ---------------------------------------------------------------------------------

struct Options {
    // Of run() and its relatives only; Popen refuses them.

    // Sent to std_in, which then must not be redirected. Given but empty: an empty std_in.
    std::optional<std::string> input = {};
    // Collects std_out and std_err, which then must not be redirected.
    bool capture_output = false;
    // From the start of the child. At its end: everything is killed (see kill_tree), what was
    // written so far is collected, TimeoutExpired is thrown. Zero or less: at once. A child
    // that may not be killed, since it became someone else (setuid, as sudo), is not waited for.
    std::optional<Timeout> timeout = {};
    // Throws CalledProcessError unless the child exits with 0.
    bool check = false;
    // Called for each line (without '\n') while the child runs, on the calling thread. Makes a
    // pipe of a stream that is not redirected; its output is collected only if capture_output is
    // set, too (check_output() and getoutput() collect it anyway). If it throws, the child is
    // killed and the exception goes to the caller. At the timeout no more lines are delivered; what
    // was not is in TimeoutExpired::output().
    std::function<void(std::string_view line)> on_stdout = {};
    std::function<void(std::string_view line)> on_stderr = {};

    // As in Python, and in its order.

    // Of the pipes in Popen. -1: reads are buffered, writes go out at once. 0: neither. 1: writes
    // go out with the end of a line (text mode only). n: writes are gathered up to n bytes.
    int bufsize = -1;
    // The file to execute, while args[0] stays what the program sees as its name; with `shell`,
    // the shell to use. A name without '/' is searched in the PATH *of the child*, and relative
    // entries of that (an empty one is ".") in the child's `cwd`: with a folder that others can
    // write to, give a path.
    std::filesystem::path executable = {};
    InputRedirect std_in = {};
    OutputRedirect std_out = {};
    ErrorRedirect std_err = {};
    // Called in the child before the last steps; makes the start a fork. Must do nothing but
    // async-signal-safe calls if the parent has threads. If it throws, the start fails: StartError
    // with the step preexec_fn, and the errno of a std::system_error.
    std::function<void()> preexec_fn = {};
    // The child gets 0, 1, 2 and pass_fds only. False: all that are not close-on-exec.
    bool close_fds = true;
    // Runs /bin/sh -c args[0], with the other words as $0, $1...
    bool shell = false;
    // Where the child starts. A relative `executable` is resolved there. It is entered before
    // `user`, `group` and extra_groups take effect, so with the parent's rights: the child may be
    // in a folder that its user could not enter.
    std::filesystem::path cwd = {};
    // No value: the parent's.
    std::optional<Environment> env = {};
    std::optional<bool> universal_newlines = {};  // the older name of `text`
    // SIGPIPE and SIGXFSZ get their default action, if the parent ignores them.
    bool restore_signals = true;
    // setsid(). A child that keeps its parent's terminal can read from it, and, where the kernel
    // allows that (ioctl TIOCSTI; the sysctl dev.tty.legacy_tiocsti), type into it as if the user
    // had: set this for a child of another user that is started from a terminal.
    bool start_new_session = false;
    // Survive in the child, under their own or another number. Sets close_fds.
    std::vector<PassFd> pass_fds = {};
    // Real, effective and saved ids; needs the privilege to change them. Each field changes what it
    // names and nothing else, as in Python: `user` alone leaves a child of root with root's group
    // and root's other groups, and so with what these may do. as_user (below) changes all at once.
    // An empty list of extra_groups drops all groups.
    std::optional<Identity> user = {};
    std::optional<Identity> group = {};
    std::optional<std::vector<Identity>> extra_groups = {};
    // Text mode is on if text is true, or encoding or errors is given: "\r\n" and "\r" become
    // "\n", and output is transcoded from `encoding` (a name of iconv(3)) to UTF-8, input from
    // UTF-8 to it. Without encoding and errors, bytes pass as they are.
    std::string encoding = {};
    std::optional<CodecErrors> errors = {};
    std::optional<bool> text = {};
    std::optional<unsigned> umask = {};
    // Capacity in bytes of each pipe that is made. -1: the system's default.
    int pipesize = -1;
    // setpgid(0, n). 0: the child leads a new process group.
    std::optional<int> process_group = {};

    // Beyond Python.

    // The child runs as this user, given by name: user id, group and the list of groups become
    // those of the user's login, and none of the parent's are left. Excludes user, group and
    // extra_groups; needs the privilege to change them. The environment stays as it is (HOME, USER:
    // see `env`), and so do `limits`, open files and the working folder (see `cwd`).
    std::optional<std::string> as_user = {};
    // Signals that are blocked in the child. No value: those that the calling thread blocks.
    std::optional<std::vector<int>> blocked_signals = {};
    std::vector<ResourceLimit> limits = {};
    std::vector<int> cpus = {};    // CPUs that the child may run on; empty: as the parent
    std::optional<int> nice = {};  // added to the parent's nice value
    // The child is killed (SIGKILL) when this *process* dies, however it dies, or when the Popen
    // is destroyed without detaching. Costs one descriptor in each of the two; a child that
    // closes descriptors it does not know escapes. Where a sandbox refuses F_SETSIG it gets SIGIO,
    // whose default is to end it; and where that cannot be had either (PR_SET_PDEATHSIG), it is
    // killed when the *thread* that started it ends.
    bool die_with_parent = false;
    // Whether a timeout, OnDestroy::stop and OnDestroy::kill reach the child's descendants, too.
    // No value: true for the functions that take a timeout if there is one, else false. When true,
    // and neither process_group nor start_new_session is given, and std_in is no terminal (a
    // background group could not read from it), the child leads a new process group. So Ctrl-C on
    // a terminal does not reach it: set false where it should.
    // What is killed: that group, and all descendants whose chain of parents is unbroken. Where
    // there are not enough descriptors or memory to look for them, run() throws std::system_error:
    // some may be left.
    std::optional<bool> kill_tree = {};
    // How long communicate() and run() go on reading after the child has ended, if some other
    // process still holds its pipes open; of a pipeline, after all members have. No value: until
    // end of file, as in Python.
    std::optional<Timeout> drain_timeout = {};
    OnDestroy on_destroy = OnDestroy::wait;
    StopLadder stop_ladder = default_stop_ladder();
};

}  // namespace sidestep::subprocess
