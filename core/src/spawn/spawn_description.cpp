#include "spawn/spawn_description.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <grp.h>
#include <pwd.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <limits>
#include <stdexcept>
#include <string_view>

#include "spawn/resources.hpp"
#include "sys/cpu_set.hpp"
#include "sys/error.hpp"
#include "sys/hints.hpp"
#include "sys/sys.hpp"

namespace sidestep::inline v0::spawn {

using subprocess::Args;
using subprocess::Environment;
using subprocess::Identity;
using subprocess::Options;
using subprocess::PassFd;
using subprocess::Redirect;
using subprocess::Resource;
using subprocess::ResourceLimit;
using subprocess::StartError;

namespace {

thread_local Internals current_internals;

[[noreturn]] void refuse(const std::string& message) { throw std::invalid_argument(message); }

void check_text(const std::string& text, const char* what) {
    if (text.find('\0') != std::string::npos)
        refuse(fmt::format("{} \"{}\" contains a NUL byte: a program could not see what follows it",
                           what, text.c_str()));
}

std::vector<char*> pointers_to(std::vector<std::string>& strings) {
    std::vector<char*> pointers;
    pointers.reserve(strings.size() + 1);
    for (std::string& s : strings) pointers.push_back(s.data());
    pointers.push_back(nullptr);
    return pointers;
}

std::string_view name_of(std::string_view variable) {
    return variable.substr(0, variable.find('='));
}

// A name is looked up by `find`, which stores the id and returns whether it is known.
template <class Find>
unsigned resolve(const Identity& identity, const char* what, Find find) {
    if (identity.is_name()) {
        check_text(identity.name(), what);
        if (identity.name().empty())
            refuse(fmt::format("the name of the {} is empty: give an existing name or a number",
                               what));
        unsigned id = 0;
        if (!find(identity.name().c_str(), id))
            refuse(fmt::format("unknown {} \"{}\": give an existing name or a number", what,
                               identity.name()));
        return id;
    }
    // The greatest number, -1, means "no change" to the kernel.
    constexpr long long kLast = std::numeric_limits<unsigned>::max() - 1;
    if (identity.number() < 0 || identity.number() > kLast)
        refuse(fmt::format("{} {} is out of range: 0 to {}", what, identity.number(), kLast));
    return static_cast<unsigned>(identity.number());
}

// getpwnam_r and getgrnam_r with a buffer that grows.
template <class Entry, class Call>
bool look_up(Call call, Entry& entry, std::vector<char>& buffer) {
    buffer.resize(1024);
    for (;;) {
        Entry* found = nullptr;
        int error = call(&entry, buffer.data(), buffer.size(), &found);
        if (error == ERANGE && buffer.size() < (1u << 24))
            buffer.resize(buffer.size() * 2);
        else if (error != EINTR)
            return found != nullptr;
    }
}

unsigned resolve_user(const Identity& identity) {
    return resolve(identity, "user", [](const char* name, unsigned& id) {
        passwd entry;
        std::vector<char> buffer;
        auto call = [name](auto... rest) { return getpwnam_r(name, rest...); };
        bool found = look_up(call, entry, buffer);
        if (found) id = entry.pw_uid;
        return found;
    });
}

unsigned resolve_group(const Identity& identity) {
    return resolve(identity, "group", [](const char* name, unsigned& id) {
        group entry;
        std::vector<char> buffer;
        auto call = [name](auto... rest) { return getgrnam_r(name, rest...); };
        bool found = look_up(call, entry, buffer);
        if (found) id = entry.gr_gid;
        return found;
    });
}

struct Login {
    unsigned user = 0, group = 0;
    std::vector<unsigned> groups;
};
Login look_up_login(const std::string& name) {
    check_text(name, "user");
    passwd entry;
    std::vector<char> buffer;
    auto call = [&](auto... rest) { return getpwnam_r(name.c_str(), rest...); };
    if (!look_up(call, entry, buffer))
        refuse(
            fmt::format("as_user: there is no user \"{}\" here: give the name of one (for a "
                        "number, give user, group and extra_groups)",
                        name));
    Login login = {entry.pw_uid, entry.pw_gid, {}};
    for (int count = 64;;) {
        int room = count;
        login.groups.resize(static_cast<std::size_t>(room));
        bool fits = getgrouplist(name.c_str(), entry.pw_gid, login.groups.data(), &count) >= 0;
        if (!fits) count = std::max(count, 2 * room);
        login.groups.resize(static_cast<std::size_t>(count));
        if (fits) return login;
    }
}

const KnownResource& known(Resource resource) {
    if (const KnownResource* found = find_resource(resource)) return *found;
    refuse("limits: no such Resource");
}

[[noreturn]] void throw_bad_fd(const std::string& executable, const std::string& why) {
    throw StartError(StartStep::redirect, EBADF, {},
                     fmt::format("cannot start \"{}\": redirect ({})", executable, why));
}

// What the preexec_fn throws becomes an errno: nothing else fits through the kernel.
int call_preexec(void* context) noexcept {
    try {
        (*static_cast<const std::function<void()>*>(context))();
        return 0;
    } catch (const std::system_error& e) {
        return e.code().value() != 0 ? e.code().value() : ECANCELED;
    } catch (...) {
        return ECANCELED;
    }
}

}  // namespace

Internals set_internals(Internals internals) noexcept {
    return std::exchange(current_internals, internals);
}
const Internals& internals() noexcept { return current_internals; }

Description::Description(const Args& args, const Options& options) : options_(options) {
    check_pass_fds();
    set_command(args);
    set_environment();
    set_candidates();
    set_identity();
    set_signals();
    set_limits();
    set_cpus();
    plan_.close_fds = options.close_fds || !options.pass_fds.empty();
    plan_.close_method = current_internals.close_method;
    if (options.umask) {
        if (*options.umask > 0777)
            refuse(fmt::format("umask {:#o} is out of range: 0 to 0777", *options.umask));
        plan_.umask = static_cast<int>(*options.umask);
    }
    cwd_ = options.cwd.native();
    check_text(cwd_, "cwd");
    if (!cwd_.empty()) plan_.cwd = cwd_.c_str();
    plan_.new_session = options.start_new_session;
    plan_.set_process_group = options.process_group.has_value();
    plan_.process_group = options.process_group.value_or(0);
    if (options.nice) {
        plan_.set_nice = true;
        const int more = std::clamp(*options.nice, -40, 40);  // the whole way
        plan_.nice = std::clamp(::getpriority(PRIO_PROCESS, 0) + more, -20, 19);
    }
    if (options.preexec_fn) {
        plan_.preexec = call_preexec;
        plan_.preexec_context = const_cast<std::function<void()>*>(&options.preexec_fn);
    }
    check_descriptors();
}

void Description::set_command(const Args& args) {
    words_ = args.words();
    if (words_.empty()) refuse("args is empty: its first word is the program to start");
    for (const std::string& word : words_) check_text(word, "argument");
    executable_ = options_.executable.native();
    check_text(executable_, "executable");
    if (options_.shell) {
        if (args.form() == Args::Form::path)
            refuse("shell needs a command line, and args is a path: pass a string, or drop shell");
        std::string shell = executable_.empty() ? "/bin/sh" : executable_;
        words_.insert(words_.begin(), {shell, "-c"});
    }
    if (executable_.empty()) executable_ = words_[0];
    argv_ = pointers_to(words_);
    plan_.argv = argv_.data();
}

void Description::set_environment() {
    plan_.envp = environ;
    if (!options_.env) return;
    const Environment::Changes& changes = options_.env->changes();
    for (const auto& [name, value] : changes) {
        check_text(name, "environment variable");
        if (value) check_text(*value, "environment value");
        if (name.empty() || name.find('=') != std::string::npos)
            refuse(
                fmt::format("\"{}\" cannot be the name of an environment variable: it must not "
                            "be empty nor contain '='",
                            name));
    }
    if (options_.env->extends_parent())
        for (char** variable = environ; variable && *variable; ++variable) {
            std::string_view name = name_of(*variable);
            bool changed = std::any_of(changes.begin(), changes.end(),
                                       [&](const auto& change) { return change.first == name; });
            if (!changed) variables_.emplace_back(*variable);
        }
    for (const auto& [name, value] : changes)
        if (value) variables_.push_back(name + "=" + *value);
    envp_ = pointers_to(variables_);
    plan_.envp = envp_.data();
}

// The PATH is the child's; a relative executable is resolved after chdir, by the kernel.
void Description::set_candidates() {
    if (executable_.empty() || executable_.find('/') != std::string::npos) {
        paths_.push_back(executable_);
    } else {
        std::string_view search = "/bin:/usr/bin";  // without PATH
        for (char* const* variable = plan_.envp; variable && *variable; ++variable)
            if (std::string_view(*variable).starts_with("PATH=")) {
                search = std::string_view(*variable).substr(5);
                break;
            }
        for (bool more = true; more;) {
            std::size_t end = search.find(':');
            std::string_view folder = search.substr(0, end);
            more = end != std::string_view::npos;
            if (more) search.remove_prefix(end + 1);
            std::string path(folder);  // an empty entry is the current folder
            if (!path.empty() && path.back() != '/') path += '/';
            paths_.push_back(path += executable_);
        }
    }
    for (const std::string& path : paths_) candidates_.push_back(path.c_str());
    candidates_.push_back(nullptr);
    plan_.candidates = candidates_.data();
}

// All that a login gives a user at once: an id alone leaves the parent's groups.
void Description::set_login() {
    const std::string& name = *options_.as_user;
    if (options_.user || options_.group || options_.extra_groups)
        refuse("as_user sets user, group and extra_groups: do not give these as well");
    Login login = look_up_login(name);
    groups_ = std::move(login.groups);
    plan_.set_groups = plan_.set_gid = plan_.set_uid = true;
    plan_.groups = groups_.data();
    plan_.group_count = groups_.size();
    plan_.gid = login.group;
    plan_.uid = login.user;
}

void Description::set_identity() {
    if (options_.as_user) return set_login();
    if (options_.extra_groups) {
        for (const Identity& each : *options_.extra_groups) groups_.push_back(resolve_group(each));
        plan_.set_groups = true;
        plan_.groups = groups_.data();
        plan_.group_count = groups_.size();
    }
    if (options_.group) {
        plan_.set_gid = true;
        plan_.gid = resolve_group(*options_.group);
    }
    if (options_.user) {
        plan_.set_uid = true;
        plan_.uid = resolve_user(*options_.user);
    }
}

void Description::set_signals() {
    plan_.restore_signals = options_.restore_signals;
    if (!options_.blocked_signals) return;  // start() takes the calling thread's
    for (int signal : *options_.blocked_signals) {
        if (signal < 1 || signal > 64)
            refuse(fmt::format("blocked_signals: there is no signal {}", signal));
        plan_.blocked_signals |= std::uint64_t{1} << (signal - 1);
    }
    plan_.set_blocked_signals = true;
}

void Description::set_limits() {
    for (const ResourceLimit& limit : options_.limits) {
        std::uint64_t hard = limit.hard.value_or(limit.soft);
        if (limit.soft > hard)
            refuse(fmt::format("limits: the soft limit {} is above the hard limit {}", limit.soft,
                               hard));
        limits_.push_back({known(limit.resource).number, {limit.soft, hard}});
    }
    plan_.limits = limits_.data();
    plan_.limit_count = limits_.size();
}

void Description::set_cpus() {
    for (int cpu : options_.cpus) {
        if (cpu < 0 || cpu >= sys::CpuSet::kMost)
            refuse(fmt::format("cpus: there is no CPU {}", cpu));
        cpus_.add(cpu);
    }
    if (cpus_.words().empty()) return;
    plan_.cpus = cpus_.words().data();
    plan_.cpus_bytes = cpus_.words().size_bytes();
}

void Description::check_pass_fds() const {
    const Redirect* streams[] = {&options_.std_in, &options_.std_out, &options_.std_err};
    for (const PassFd& one : options_.pass_fds) {
        if (one.parent < 0 || one.child < 0)
            refuse(fmt::format("pass_fds: {} -> {} is not a pair of descriptors", one.parent,
                               one.child));
        if (one.child < 3 && one.parent != one.child &&
            streams[one.child]->kind() != Redirect::Kind::inherit)
            refuse(fmt::format("pass_fds: {} -> {} collides with the redirection of that stream",
                               one.parent, one.child));
        for (const PassFd& other : options_.pass_fds)
            if (other.child == one.child && other.parent != one.parent)
                refuse(fmt::format("pass_fds: both {} and {} shall become {} in the child",
                                   one.parent, other.parent, one.child));
    }
}

// Here, before a pipe of ours is made: it would take the number of one that is not open.
void Description::check_descriptors() const {
    auto check_open = [this](int fd) {
        if (!sys::is_open(fd))
            throw_bad_fd(executable_, fmt::format("descriptor {} is not open", fd));
    };
    const Redirect* streams[] = {&options_.std_in, &options_.std_out, &options_.std_err};
    for (const Redirect* stream : streams)
        if (stream->kind() == Redirect::Kind::fd) check_open(stream->fd());
    int highest = -1;
    for (const PassFd& one : options_.pass_fds) {
        if (one.child < 3 && streams[one.child]->kind() != Redirect::Kind::inherit) continue;
        check_open(one.parent);
        if (one.child != one.parent) highest = std::max(highest, one.child);
    }
    rlimit open_files;
    if (highest < 0 || ::getrlimit(RLIMIT_NOFILE, &open_files) != 0) return;
    if (static_cast<rlim_t>(highest) >= open_files.rlim_cur)
        throw_bad_fd(executable_,
                     fmt::format("pass_fds: {} in the child is not below the limit on open files, "
                                 "{}: RLIMIT_NOFILE, ulimit -n",
                                 highest, open_files.rlim_cur));
}

void Description::set_stdio(const Stdio& stdio) {
    plan_moves(stdio);
    for (const Move& move : moves_) {
        plan_.first_spare_fd = std::max(plan_.first_spare_fd, move.target + 1);
        if (move.target > 2) kept_.push_back(move.target);
    }
    if (options_.die_with_parent) make_lifeline();
    copies_.resize(moves_.size());
    plan_.copies = copies_.data();
    plan_.moves = moves_.data();
    plan_.move_count = moves_.size();
    plan_.kept = kept_.data();
    plan_.kept_count = kept_.size();
}

void Description::make_lifeline() {
    try {
        ParentEnds ends = sidestep::make_lifeline();
        // Above every target, so that no move overwrites it.
        int fd = sys::duplicate_fd(ends.theirs.get(), plan_.first_spare_fd);
        if (fd < 0) throw_errno(errno, "fcntl(F_DUPFD_CLOEXEC)");
        lifeline_ = Fd(fd);
        lifeline_writer_ = std::move(ends.ours);
    } catch (const std::system_error& e) {
        throw StartError(StartStep::pipe, e.code().value(), {},
                         fmt::format("cannot start \"{}\": the pipe of die_with_parent{}",
                                     executable_, sys::descriptor_hint(e.code().value())));
    }
    plan_.lifeline = lifeline_.get();
    kept_.push_back(lifeline_.get());
}

void Description::plan_moves(const Stdio& stdio) {
    const int sources[] = {stdio.in, stdio.out, stdio.err};
    for (int target = 0; target < 3; ++target)
        if (sources[target] >= 0) moves_.push_back({sources[target], target, false});
    for (const PassFd& one : options_.pass_fds) {
        auto same_target = [&](const Move& move) { return move.target == one.child; };
        if (std::none_of(moves_.begin(), moves_.end(), same_target))
            moves_.push_back({one.parent, one.child, false});
    }
    for (Move& move : moves_)
        for (const Move& other : moves_)
            if (other.target == move.source && other.source != other.target && &other != &move)
                move.copy_first = true;
}

std::string Description::subject_of(const Failure& failure) const {
    const int error = failure.error;
    if (failure.step == StartStep::setrlimit && error == EPERM) return raised_limits();
    if (failure.step == StartStep::affinity)
        return fmt::format("cpus {}{}", fmt::join(options_.cpus, ", "), sys::affinity_hint(error));
    if (failure.step == StartStep::nice && error == EACCES)
        return fmt::format(
            "{}: less than the parent's takes CAP_SYS_NICE, or a limit that allows it: ulimit -e",
            plan_.nice);
    return {};
}

std::string Description::raised_limits() const {
    std::string text;
    for (const ResourceLimit& limit : options_.limits) {
        const KnownResource& resource = known(limit.resource);
        std::uint64_t hard = limit.hard.value_or(limit.soft);
        std::string what = exceeded(resource, hard, "the parent's");
        if (what.empty()) continue;
        text += fmt::format("{}{} {} is {}", text.empty() ? "" : "; ", resource.name,
                            limit_text(hard), what);
    }
    return text;
}

}  // namespace sidestep::spawn
