#include <sidestep/detail/hosted.hpp>

#include <stdexcept>

#include "object_server.hpp"

namespace sidestep::inline v0::detail {

void Hosted::enter() {
    std::unique_lock lock(mutex_);
    enter_with(lock, 1);
}

void Hosted::enter_with(std::unique_lock<std::mutex>& lock, unsigned depth) {
    const auto me = std::this_thread::get_id();
    if (depth_ > 0 && inside_ != me) {
        ++waiting_;
        changed_.wait(lock, [&] { return depth_ == 0; });
        --waiting_;
    }
    inside_ = me;
    depth_ += depth;
}

void Hosted::leave() {
    std::lock_guard lock(mutex_);
    if (--depth_ == 0 && waiting_ > 0) changed_.notify_all();
}

bool Hosted::wait(const std::function<bool()>& ready, const Deadline& deadline,
                  const std::function<bool()>& give_up) {
    std::unique_lock lock(mutex_);
    const unsigned depth = depth_;
    bool late = false;
    for (;;) {
        // This thread is inside: what ready() looks at is its own.
        if (ready()) return true;
        if (late || give_up()) return false;
        depth_ = 0;
        changed_.notify_all();
        ++waiting_;
        if (deadline)
            late = changed_.wait_until(lock, *deadline) == std::cv_status::timeout;
        else
            changed_.wait(lock);
        --waiting_;
        enter_with(lock, depth);
    }
}

void Hosted::wake() {
    std::lock_guard lock(mutex_);
    changed_.notify_all();
}

Hosted& hosted_here(std::uint64_t type) {
    Hosted* object = ObjectServer::current().object.get();
    if (!object || object->type() != type)
        throw std::logic_error("the object is not of the type that the call is for");
    return *object;
}

Caller caller_here() { return ObjectServer::current().caller; }

std::function<void()> waker_here() {
    return [object = ObjectServer::current().object] { object->wake(); };
}

std::uint64_t host_here(std::shared_ptr<Hosted> object) {
    ObjectServer::CurrentCall& call = ObjectServer::current();
    return call.server.host(*call.client, std::move(object));
}

}  // namespace sidestep::detail
