// What a call of an object in another process can end with besides what the method throws.
//
// Threads: values; what() is thread-safe.
#pragma once

#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>

#include <sidestep/pool_errors.hpp>

namespace sidestep::inline v0 {

// The server that holds the object ended, or was cut off, before it answered.
class ActorLost : public WorkerLost {
  public:
    ActorLost(Details details, std::uint64_t object, std::string method, bool began);

    // "server 4211 died of signal 9 (SIGKILL) before it answered ... of object 3; it had not begun"
    const char* what() const noexcept override { return text_->c_str(); }
    std::uint64_t object() const { return object_; }
    // What was called, as the compiler spells it.
    const std::string& method() const { return *method_; }
    // False: the call had not begun, since an earlier one of the same thread was running. True: it
    // may have run, in part or as a whole.
    bool began() const { return began_; }

  private:
    std::shared_ptr<const std::string> text_, method_;
    std::uint64_t object_;
    bool began_;
};

// The server has no such object (any more): nobody had a proxy of it when this one arrived.
class NoSuchObject : public std::runtime_error {
  public:
    using std::runtime_error::runtime_error;
};

}  // namespace sidestep
