// A child as its starter describes it: Args and Options, validated, with all the memory that a
// Plan points to.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include <sidestep/subprocess_options.hpp>

#include "spawn/spawn_plan.hpp"
#include "sys/cpu_set.hpp"
#include "sys/fd.hpp"
#include "sys/parent_fd.hpp"

namespace sidestep::inline v0::spawn {

// Which system call starts the child. The first that works, unless a test asks for one by name.
//   clone3  shares the parent's memory until exec, clears the handlers in the kernel
//   clone   shares the parent's memory until exec; where clone3 is refused (seccomp)
//   fork    a copy of the parent; for preexec_fn and changes of user or group, and under TSan
enum class Primitive { automatic, clone3, clone, fork };

// What tests may force. The defaults are what everyone uses.
struct Internals {
    Primitive primitive = Primitive::automatic;
    CloseMethod close_method = CloseMethod::close_range;
};
// Of the calling thread; returns the former. For tests.
Internals set_internals(Internals internals) noexcept;
const Internals& internals() noexcept;

// The parent's side of a standard stream: which descriptor becomes it. -1: inherited.
struct Stdio {
    int in = -1;
    int out = -1;
    int err = -1;
};

class Description {
  public:
    // Throws std::invalid_argument, and StartError if a descriptor that they name is not open.
    // Borrows both until the child is started.
    Description(const subprocess::Args& args, const subprocess::Options& options);
    Description(const Description&) = delete;
    Description& operator=(const Description&) = delete;

    // The last thing to be known: after this, plan() is complete. Throws StartError if a descriptor
    // is needed and there is none.
    void set_stdio(const Stdio& stdio);

    const Plan& plan() const { return plan_; }
    // The executable as it was asked for, and the folder to start in: what errors name.
    const std::string& executable() const { return executable_; }
    const std::string& cwd() const { return cwd_; }
    bool needs_fork() const {
        return plan_.preexec || plan_.set_groups || plan_.set_gid || plan_.set_uid;
    }
    bool leads_group() const {
        return plan_.new_session || (plan_.set_process_group && plan_.process_group == 0);
    }
    // What the options asked for in a step that failed, and what to do; empty where the names of
    // the step and of the error say it.
    std::string subject_of(const Failure& failure) const;
    // The parent's end of the lifeline: the child dies when it is closed.
    ParentFd take_lifeline() { return std::move(lifeline_writer_); }

  private:
    void set_command(const subprocess::Args& args);
    void set_environment();
    void set_candidates();
    void set_identity();
    void set_login();
    void set_signals();
    void set_limits();
    void set_cpus();
    void check_pass_fds() const;
    void check_descriptors() const;
    void plan_moves(const Stdio& stdio);
    void make_lifeline();
    std::string raised_limits() const;

    const subprocess::Options& options_;
    Plan plan_;
    std::string executable_;
    std::string cwd_;
    std::vector<std::string> words_;
    std::vector<char*> argv_;
    std::vector<std::string> variables_;
    std::vector<char*> envp_;
    std::vector<std::string> paths_;
    std::vector<const char*> candidates_;
    std::vector<Move> moves_;
    std::vector<int> copies_;
    std::vector<int> kept_;
    std::vector<unsigned> groups_;
    std::vector<Limit> limits_;
    sys::CpuSet cpus_;
    Fd lifeline_;
    ParentFd lifeline_writer_;
};

}  // namespace sidestep::spawn
