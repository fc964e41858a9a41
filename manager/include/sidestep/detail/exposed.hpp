// What a ManagerServer offers of an object: methods by name, so that a program of another build can
// call them. Internal: see manager_server.hpp.
//
// The name is the mangled one of a type that is made of the method, which the C++ ABI fixes: it is
// the same for every compiler, and tells overloads, parameters and results apart.
#pragma once

#include <memory>
#include <string>
#include <type_traits>
#include <typeinfo>
#include <utility>
#include <vector>

#include <sidestep/detail/hosted.hpp>
#include <sidestep/proxy.hpp>

namespace sidestep::inline v0 {

template <class T>
class Queue;
template <class T>
class JoinableQueue;
class Lock;
class RLock;
class Semaphore;
class BoundedSemaphore;
class Condition;
class Event;
class Barrier;
class Pool;

namespace detail {

struct ExposedMethod {
    const char* name;  // method_name()
    TaskEntry::Run run;
};
struct Exposure {
    std::string name;  // of the object
    const char* type;  // type_info::name()
    std::vector<ExposedMethod> methods;
    bool functions = false;  // also any function of the program: a pool
};

template <class T, auto method>
ExposedMethod exposed_method() {
    using Body =
        typename Signature<std::remove_const_t<decltype(method)>>::template Exposed<T, method>;
    return {method_name<method>(), &Body::run};
}

// "JobBoard::take() const" of what method_name() says.
enum class MethodText { whole, name_alone };  // name_alone: without what it returns
std::string readable_method(const char* method_name, MethodText text = MethodText::whole);

// --- faces: what is exposed of them -----------------------------------------------------------

template <class T, auto... methods>
struct MethodList {
    static std::vector<ExposedMethod> all() { return {exposed_method<T, methods>()...}; }
};
// Of an object of a face.
template <class Object>
struct FaceMethods;

template <class T>
T* object_of_proxy(const Proxy<T>*);
template <class T>
concept IsProxy = requires(const T* proxy) {
    object_of_proxy(proxy);
};

// The proxy of an object that is asked for as a T: Queue<int> -> QueueProxy<int>, and Proxy<T> of
// a type that is no face. A proxy's own name will do, too: DictProxy<K, V>.
template <class T>
struct FaceOf {
    using Proxy = sidestep::Proxy<T>;
};
template <IsProxy P>
struct FaceOf<P> {
    using Proxy = P;
    using Object = std::remove_pointer_t<decltype(object_of_proxy(static_cast<P*>(nullptr)))>;
    template <class... Args>
    static std::shared_ptr<Object> make(Args&&... args) {
        if constexpr (sizeof...(Args) > 0 || std::is_default_constructible_v<Object>)
            return std::make_shared<Object>(std::forward<Args>(args)...);
        else
            return std::shared_ptr<Object>(new Object({}));  // an empty one, as a Manager makes it
    }
};
template <>
struct FaceOf<Pool>;  // <sidestep/pool_proxy.hpp>

template <class T>
using FaceProxy = typename FaceOf<T>::Proxy;
template <class T>
using FaceObject =
    std::remove_pointer_t<decltype(object_of_proxy(static_cast<const FaceProxy<T>*>(nullptr)))>;

// An object that its program has, too.
template <class T>
class HostedShared final : public Hosted {
  public:
    explicit HostedShared(std::shared_ptr<T> value)
        : Hosted(hosted_type<T>()), value_(std::move(value)) {}
    void* object() override { return value_.get(); }
    const char* type_name() const override { return typeid(T).name(); }
    bool holds_for_clients() const override {
        return requires(T & value) { value.client_gone(std::uint64_t(0)); };
    }
    void client_gone(std::uint64_t client) override {
        if constexpr (requires { value_->client_gone(client); }) value_->client_gone(client);
    }

  private:
    const std::shared_ptr<T> value_;
};

}  // namespace detail
}  // namespace sidestep
