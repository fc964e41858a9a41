// ZeroMQ for queue_bench. Its socket has an abstract name: no file is left.
#include <zmq.h>

#include "queue_run.hpp"

namespace {

using bench::Message;

struct Socket {
    explicit Socket(int type) : context(zmq_ctx_new()), socket(zmq_socket(context, type)) {
        int limit = bench::kQueueLimit;
        zmq_setsockopt(socket, ZMQ_SNDHWM, &limit, sizeof limit);
        zmq_setsockopt(socket, ZMQ_RCVHWM, &limit, sizeof limit);
    }
    ~Socket() {
        zmq_close(socket);
        zmq_ctx_term(context);  // waits until all is sent
    }
    Socket(const Socket&) = delete;
    Socket& operator=(const Socket&) = delete;
    void *context, *socket;
};

double run_zeromq(long count, long messages) {
    std::string name = "ipc://@sidestep-queue-bench-" + std::to_string(getpid());
    return bench::run_processes(
        count, messages,
        [&](long n) {
            Socket push(ZMQ_PUSH);
            zmq_bind(push.socket, name.c_str());
            Message message{1, 2};
            for (long i = 0; i < n; ++i) zmq_send(push.socket, &message, sizeof message, 0);
        },
        [&](long n) {
            Socket pull(ZMQ_PULL);
            zmq_connect(pull.socket, name.c_str());
            Message message;
            for (long i = 0; i < n; ++i) zmq_recv(pull.socket, &message, sizeof message, 0);
        });
}

const bool added = [] {
    bench::add_queue("zeromq", 1, run_zeromq);
    return true;
}();

}  // namespace
