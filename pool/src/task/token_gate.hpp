// Named tokens: how many are free, and who waits for some.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include <sidestep/detail/pool_task.hpp>
#include <sidestep/pool_stats.hpp>
#include <sidestep/task_options.hpp>

namespace sidestep::inline v0::detail {

// What a task wants of them; while it waits, also its place among those that do.
struct TokenUse {
    static constexpr std::uint32_t kAnyWorker = ~std::uint32_t(0);
    struct Share {
        std::uint32_t token;
        std::uint64_t count;
    };

    std::vector<Share> shares;        // constant, one at least, none twice
    const TaskState* over = nullptr;  // null, or a task that may be done before it was begun
    PoolTask* task = nullptr;         // null: it is a job of a ThreadPool
    // Who comes first: the higher priority, then the lower number.
    int priority = 0;
    std::uint64_t number = 0;
    std::uint32_t worker = kAnyWorker;  // that alone may run it
    // The gate's own.
    bool waits = false;
    bool has_them = false;
    TokenUse* next = nullptr;
    TokenUse* previous = nullptr;

    bool comes_before(int its_priority, std::uint64_t its_number) const {
        return priority != its_priority ? priority > its_priority : number < its_number;
    }
    bool comes_before(const TokenUse& other) const {
        return comes_before(other.priority, other.number);
    }
};

// Takes no memory but for wanted().
//
// Threads: the caller serialises (a pool, by its mutex), but for wanted().
class TokenGate {
  public:
    // `of`: what the options are called. Throws std::invalid_argument for what makes no sense.
    static void check(const std::vector<Tokens>& tokens, const char* of);

    // Requires: check() is content.
    explicit TokenGate(const std::vector<Tokens>& tokens);

    // What a task says of it; null: nothing. Thread-safe. Throws std::invalid_argument for names
    // and numbers that the pool has not.
    TokenUsePtr wanted(const std::vector<Tokens>& uses) const;

    bool is_empty() const { return waiting_ == 0; }  // nobody waits
    std::uint64_t waiting() const { return waiting_; }
    void wait(TokenUse& use) noexcept;
    // It waits no more; does nothing if it did not.
    void forget(TokenUse& use) noexcept;
    // Of those that this worker alone may run, or any: the first that may begin; null: there is
    // none. What came before it, and lacks something, keeps what it wants of the rest.
    TokenUse* first(std::uint32_t worker) noexcept;
    // first() has named it: it waits no more, and has its tokens (if it is not over already).
    void take(TokenUse& use) noexcept;
    // Whatever it has is free.
    void give_back(TokenUse& use) noexcept;

    TokenUse* any() noexcept;  // that waits; null: nobody does
    template <class F>
    void for_each(F f) const {
        for (const Token& token : tokens_)
            for (TokenUse* use = token.first; use; use = use->next) f(*use);
    }
    std::vector<TokenStats> stats() const;  // throws std::bad_alloc

  private:
    struct Token {
        std::string name;
        std::uint64_t count;
        std::uint64_t free;
        std::uint64_t wanted = 0;  // by so many that wait
        // Those that wait, and name it first: the first of them, and the last.
        TokenUse* first = nullptr;
        TokenUse* last = nullptr;
        // During first(): what is left, and who is next.
        std::uint64_t left = 0;
        TokenUse* next = nullptr;
    };
    TokenUse* next_in_turn() noexcept;
    const Token* find(const std::string& name) const;
    Token& list_of(const TokenUse& use) { return tokens_[use.shares.front().token]; }

    std::vector<Token> tokens_;
    std::uint64_t waiting_ = 0;
    std::uint64_t waiting_for_one_worker_ = 0;
};

}  // namespace sidestep::detail
