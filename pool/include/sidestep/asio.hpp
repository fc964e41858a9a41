// Results of futures in programs whose event loop is Asio's: stand-alone, or Boost's.
//
//     asio::awaitable<void> answer(tcp::socket client, sidestep::Pool& pool) {
//         int sum = co_await async_get(pool.submit(add, 1, 2), asio::use_awaitable);
//         std::string text = std::to_string(sum);
//         co_await asio::async_write(client, asio::buffer(text), asio::use_awaitable);
//     }
//
// The loop's thread goes on while workers work. The token may be any of Asio's: use_awaitable,
// use_future, detached, or a function (std::exception_ptr, T), for a Future<void> one of
// (std::exception_ptr), which is called by its associated executor (asio::bind_executor's).
//
// This header is not included by others, and nothing of Asio is in the library. It takes the
// stand-alone Asio, or where that is not found, or SIDESTEP_USE_BOOST_ASIO is defined, Boost.Asio.
//
// Ownership: executors that count their work (that of an io_context does) have work until the
//            future is done, so run() does not return before. The event loop must not go before
//            that: cancel the future, or destroy its pool first.
// Threads:   the result is read, and the token called, by the token's executor.
// Errors:    what Future::get() throws. std::logic_error at once for an empty future.
// Cancellation: of the operation (by asio's cancellation slots, such as operators of awaitables,
//            from Asio 1.20 and Boost 1.78 on) is Future::cancel(), so it ends with CancelledError.
//            A task of a ThreadPool that runs cannot be stopped: the operation ends when that does.
// Limits:    T must have a default constructor, as Asio wants it beside an error.
#pragma once

#include <exception>
#include <memory>
#include <optional>
#include <type_traits>
#include <utility>

#if defined(SIDESTEP_USE_BOOST_ASIO) || !__has_include(<asio/async_result.hpp>)
#include <boost/asio/associated_executor.hpp>
#include <boost/asio/async_result.hpp>
#include <boost/asio/execution/outstanding_work.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/prefer.hpp>
#include <boost/asio/version.hpp>
#define SIDESTEP_ASIO_IS boost::asio
#define SIDESTEP_ASIO_KIND with_boost_asio
#if BOOST_ASIO_VERSION >= 102000
#include <boost/asio/associated_cancellation_slot.hpp>
#define SIDESTEP_ASIO_CANCELS
#endif
#else
#include <asio/associated_executor.hpp>
#include <asio/async_result.hpp>
#include <asio/execution/outstanding_work.hpp>
#include <asio/post.hpp>
#include <asio/prefer.hpp>
#include <asio/version.hpp>
#define SIDESTEP_ASIO_IS asio
#define SIDESTEP_ASIO_KIND with_asio
#if ASIO_VERSION >= 102000
#include <asio/associated_cancellation_slot.hpp>
#define SIDESTEP_ASIO_CANCELS
#endif
#endif

#include <sidestep/detail/result_reader.hpp>
#include <sidestep/future.hpp>

namespace sidestep::inline v0 {
inline namespace SIDESTEP_ASIO_KIND {  // files of one program may use either
namespace asio_detail {

namespace net = ::SIDESTEP_ASIO_IS;

template <class T>
struct Signature {
    using type = void(std::exception_ptr, T);
};
template <>
struct Signature<void> {
    using type = void(std::exception_ptr);
};

// An operation that is under way.
template <class T, class Handler>
class Operation : public std::enable_shared_from_this<Operation<T, Handler>> {
  public:
    explicit Operation(Handler handler)
        : executor_(net::prefer(net::get_associated_executor(handler),
                                net::execution::outstanding_work.tracked)),
          handler_(std::move(handler)) {}

    void begin(const Future<T>& future) {
#ifdef SIDESTEP_ASIO_CANCELS
        auto slot = net::get_associated_cancellation_slot(*handler_);
        if (slot.is_connected())
            slot.assign([its = future](net::cancellation_type) mutable { its.cancel(); });
#endif
        // In a thread of the pool, or in this one: the token is called by neither.
        future.add_done_callback([self = this->shared_from_this()](const Future<T>& done) {
            net::post(self->executor_, [self, done]() mutable { self->end(std::move(done)); });
        });
    }

  private:
    void end(Future<T> done) {
        Handler handler = std::move(*handler_);
        handler_.reset();
#ifdef SIDESTEP_ASIO_CANCELS
        net::get_associated_cancellation_slot(handler).clear();
#endif
        std::exception_ptr error;
        if constexpr (std::is_void_v<T>) {
            try {
                done.get();
            } catch (...) {
                error = std::current_exception();
            }
            std::move(handler)(error);
        } else {
            std::optional<T> value;
            try {
                value.emplace(done.get());
            } catch (...) {
                error = std::current_exception();
            }
            std::move(handler)(error, value ? std::move(*value) : T());
        }
    }

    // (prefer() may return a reference.)
    std::decay_t<decltype(net::prefer(std::declval<net::associated_executor_t<Handler>>(),
                                      net::execution::outstanding_work.tracked))>
        executor_;
    std::optional<Handler> handler_;
};

}  // namespace asio_detail

// Calls the token with the future's result, or with what its get() throws, once it is done.
template <class T, class Token>
auto async_get(Future<T> future, Token&& token) {
    return asio_detail::net::async_initiate<Token, typename asio_detail::Signature<T>::type>(
        [](auto handler, const Future<T>& its) {
            using Handler = decltype(handler);
            std::make_shared<asio_detail::Operation<T, Handler>>(std::move(handler))->begin(its);
        },
        token, std::move(future));
}

}  // namespace SIDESTEP_ASIO_KIND
}  // namespace sidestep

#undef SIDESTEP_ASIO_IS
#undef SIDESTEP_ASIO_KIND
#undef SIDESTEP_ASIO_CANCELS
