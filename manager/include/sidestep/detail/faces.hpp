// The faces, as a ManagerServer exposes them by name. Internal: see manager_server.hpp.
#pragma once

#include <concepts>
#include <memory>
#include <vector>

#include <sidestep/container_proxies.hpp>
#include <sidestep/detail/exposed.hpp>
#include <sidestep/queue_proxies.hpp>
#include <sidestep/sync_proxies.hpp>

namespace sidestep::inline v0::detail {

template <class K, class V>
struct FaceMethods<DictObject<K, V>>
    : MethodList<DictObject<K, V>, &DictObject<K, V>::at, &DictObject<K, V>::get,
                 &DictObject<K, V>::insert, &DictObject<K, V>::insert_or_assign,
                 &DictObject<K, V>::get_or_insert, &DictObject<K, V>::insert_all,
                 &DictObject<K, V>::erase, &DictObject<K, V>::pop, &DictObject<K, V>::pop_any,
                 &DictObject<K, V>::contains, &DictObject<K, V>::size, &DictObject<K, V>::clear,
                 &DictObject<K, V>::snapshot, &DictObject<K, V>::page> {};
template <class T>
struct FaceMethods<ListObject<T>> {
    using O = ListObject<T>;
    static std::vector<ExposedMethod> all() {
        auto methods = MethodList<O, &O::at, &O::set, &O::push_back, &O::extend, &O::insert,
                                  &O::pop, &O::pop_back, &O::repeat, &O::reverse, &O::size,
                                  &O::clear, &O::snapshot, &O::slice>::all();
        auto add = [&](std::vector<ExposedMethod> more) {
            methods.insert(methods.end(), more.begin(), more.end());
        };
        if constexpr (std::equality_comparable<T>)
            add(MethodList<O, &O::count, &O::index, &O::remove>::all());
        if constexpr (requires(const T& a) { a < a; }) add(MethodList<O, &O::sort>::all());
        return methods;
    }
};
template <class T>
struct FaceMethods<SetObject<T>>
    : MethodList<SetObject<T>, &SetObject<T>::insert, &SetObject<T>::erase, &SetObject<T>::contains,
                 &SetObject<T>::size, &SetObject<T>::clear, &SetObject<T>::snapshot,
                 &SetObject<T>::page> {};
template <class T>
struct FaceMethods<QueueObject<T>>
    : MethodList<QueueObject<T>, &QueueObject<T>::put, &QueueObject<T>::get, &QueueObject<T>::size,
                 &QueueObject<T>::full, &QueueObject<T>::shut_down, &QueueObject<T>::task_done,
                 &QueueObject<T>::join, &QueueObject<T>::unfinished> {};
template <class T>
struct FaceMethods<ValueObject<T>>
    : MethodList<ValueObject<T>, &ValueObject<T>::get, &ValueObject<T>::set> {};
template <>
struct FaceMethods<LockObject> : MethodList<LockObject, &LockObject::lock, &LockObject::unlock,
                                            &LockObject::owner_died, &LockObject::holder> {};
template <>
struct FaceMethods<ConditionObject>
    : MethodList<ConditionObject, &ConditionObject::lock, &ConditionObject::unlock,
                 &ConditionObject::owner_died, &ConditionObject::wait, &ConditionObject::notify,
                 &ConditionObject::waiting> {};
template <>
struct FaceMethods<SemaphoreObject>
    : MethodList<SemaphoreObject, &SemaphoreObject::acquire, &SemaphoreObject::release,
                 &SemaphoreObject::value> {};
template <>
struct FaceMethods<EventObject> : MethodList<EventObject, &EventObject::set, &EventObject::clear,
                                             &EventObject::is_set, &EventObject::wait> {};
template <>
struct FaceMethods<BarrierObject>
    : MethodList<BarrierObject, &BarrierObject::wait, &BarrierObject::reset, &BarrierObject::abort,
                 &BarrierObject::parties, &BarrierObject::n_waiting, &BarrierObject::broken> {};

template <class T>
struct FaceOf<Queue<T>> : FaceOf<QueueProxy<T>> {};
template <class T>
struct FaceOf<JoinableQueue<T>> : FaceOf<JoinableQueueProxy<T>> {};
template <>
struct FaceOf<Condition> : FaceOf<ConditionProxy> {};
template <>
struct FaceOf<Event> : FaceOf<EventProxy> {};
template <>
struct FaceOf<Barrier> : FaceOf<BarrierProxy> {};
template <>
struct FaceOf<Lock> {
    using Proxy = LockProxy;
    static std::shared_ptr<LockObject> make() { return std::make_shared<LockObject>(false); }
};
template <>
struct FaceOf<RLock> {
    using Proxy = RLockProxy;
    static std::shared_ptr<LockObject> make() { return std::make_shared<LockObject>(true); }
};
template <>
struct FaceOf<Semaphore> {
    using Proxy = SemaphoreProxy;
    static std::shared_ptr<SemaphoreObject> make(unsigned permits = 1) {
        return std::make_shared<SemaphoreObject>(permits, false);
    }
};
template <>
struct FaceOf<BoundedSemaphore> {
    using Proxy = SemaphoreProxy;
    static std::shared_ptr<SemaphoreObject> make(unsigned permits = 1) {
        return std::make_shared<SemaphoreObject>(permits, true);
    }
};

}  // namespace sidestep::detail
