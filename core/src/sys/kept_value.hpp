// A value that is replaced as a whole and never freed: who has a reference keeps it for ever, and a
// forked child finds it unlocked.
//
// Threads: thread-safe. Limits: for what is replaced a few times in a process' life.
#pragma once

#include <atomic>
#include <utility>

namespace sidestep::inline v0 {

template <class T>
class KeptValue {
  public:
    // Null: not set yet.
    const T* get() const {
        const Node* node = current_;
        return node ? &node->value : nullptr;
    }
    void set(T value) {
        auto* fresh = new Node{std::move(value), current_};
        while (!current_.compare_exchange_weak(fresh->former, fresh)) {
        }
    }
    // Sets it unless it is set. Returns what it is then.
    const T& set_first(T value) {
        auto* fresh = new Node{std::move(value), nullptr};
        Node* known = nullptr;
        if (current_.compare_exchange_strong(known, fresh)) return fresh->value;
        delete fresh;  // another thread was faster
        return known->value;
    }

  private:
    struct Node {
        T value;
        Node* former;  // keeps it reachable, for those who look for leaks
    };
    std::atomic<Node*> current_{nullptr};
};

}  // namespace sidestep
