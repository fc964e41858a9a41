#include "task/token_gate.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "sys/error.hpp"

namespace sidestep::inline v0::detail {

void DropTokenUse::operator()(TokenUse* use) const noexcept { delete use; }

void TokenGate::check(const std::vector<Tokens>& tokens, const char* of) {
    for (std::size_t i = 0; i < tokens.size(); ++i) {
        const std::string& name = tokens[i].name;
        if (name.empty())
            throw std::invalid_argument(
                fmt::format("{}::tokens has tokens without a name; tasks ask for them by it", of));
        if (tokens[i].count == 0)
            throw std::invalid_argument(fmt::format(
                "{}::tokens has 0 of \"{}\"; give it one or more, or leave it out", of, name));
        for (std::size_t j = 0; j < i; ++j)
            if (tokens[j].name == name)
                throw std::invalid_argument(fmt::format(
                    "{}::tokens has \"{}\" twice; say once how many there are", of, name));
    }
}

TokenGate::TokenGate(const std::vector<Tokens>& tokens) {
    for (const Tokens& each : tokens) tokens_.push_back({each.name, each.count, each.count});
}

const TokenGate::Token* TokenGate::find(const std::string& name) const {
    auto found = std::find_if(tokens_.begin(), tokens_.end(),
                              [&](const Token& token) { return token.name == name; });
    return found == tokens_.end() ? nullptr : &*found;
}

TokenUsePtr TokenGate::wanted(const std::vector<Tokens>& uses) const {
    if (uses.empty()) return nullptr;
    TokenUsePtr use(new TokenUse);
    for (const Tokens& each : uses) {
        const Token* token = find(each.name);
        if (!token)
            throw std::invalid_argument(
                fmt::format("TaskOptions::uses names \"{}\", and the pool has no tokens of that "
                            "name; its options say which there are: .tokens = {{{{\"{}\", {}}}}}",
                            each.name, each.name, each.count));
        if (each.count > token->count)
            throw std::invalid_argument(fmt::format(
                "TaskOptions::uses wants {} of \"{}\", and the pool has {}: the task would never "
                "be begun",
                each.count, each.name, token->count));
        use->shares.push_back({static_cast<std::uint32_t>(token - tokens_.data()), each.count});
    }
    return use;
}

// In its order: at the end if it is new, else likely to be among the first.
void TokenGate::wait(TokenUse& use) noexcept {
    SIDESTEP_ASSERT(!use.waits && !use.has_them);
    Token& list = list_of(use);
    TokenUse* next = nullptr;
    if (list.last && use.comes_before(*list.last))
        for (next = list.first; next->comes_before(use);) next = next->next;
    use.next = next;
    use.previous = next ? next->previous : list.last;
    (next ? next->previous : list.last) = &use;
    (use.previous ? use.previous->next : list.first) = &use;
    use.waits = true;
    ++waiting_;
    if (use.worker != TokenUse::kAnyWorker) ++waiting_for_one_worker_;
    for (const TokenUse::Share& share : use.shares) ++tokens_[share.token].wanted;
}

void TokenGate::forget(TokenUse& use) noexcept {
    if (!use.waits) return;
    Token& list = list_of(use);
    (use.next ? use.next->previous : list.last) = use.previous;
    (use.previous ? use.previous->next : list.first) = use.next;
    use.next = use.previous = nullptr;
    use.waits = false;
    --waiting_;
    if (use.worker != TokenUse::kAnyWorker) --waiting_for_one_worker_;
    for (const TokenUse::Share& share : use.shares) --tokens_[share.token].wanted;
}

// Each wants one at least of what its list is named by: where nothing is left of that, nobody else
// in the list may begin. So this looks at no more tasks than there are tokens.
TokenUse* TokenGate::next_in_turn() noexcept {
    Token* best = nullptr;
    for (Token& token : tokens_)
        if (token.next && token.left > 0 && (!best || token.next->comes_before(*best->next)))
            best = &token;
    return best ? std::exchange(best->next, best->next->next) : nullptr;
}

TokenUse* TokenGate::first(std::uint32_t worker) noexcept {
    if (waiting_ == 0) return nullptr;
    if (worker != TokenUse::kAnyWorker && waiting_for_one_worker_ == 0) return nullptr;
    for (Token& token : tokens_) {
        token.left = token.free;
        token.next = token.first;
    }
    while (TokenUse* use = next_in_turn()) {
        bool may_begin = true;
        if (!use->over || !use->over->done()) {
            for (const TokenUse::Share& share : use->shares) {
                std::uint64_t& left = tokens_[share.token].left;
                may_begin = may_begin && share.count <= left;
                left -= std::min(share.count, left);
            }
        }
        if (may_begin && use->worker == worker) return use;
    }
    return nullptr;
}

void TokenGate::take(TokenUse& use) noexcept {
    forget(use);
    if (use.over && use.over->done()) return;
    for (const TokenUse::Share& share : use.shares) {
        SIDESTEP_ASSERT(share.count <= tokens_[share.token].free);
        tokens_[share.token].free -= share.count;
    }
    use.has_them = true;
}

void TokenGate::give_back(TokenUse& use) noexcept {
    if (!std::exchange(use.has_them, false)) return;
    for (const TokenUse::Share& share : use.shares) tokens_[share.token].free += share.count;
}

TokenUse* TokenGate::any() noexcept {
    for (Token& token : tokens_)
        if (token.first) return token.first;
    return nullptr;
}

std::vector<TokenStats> TokenGate::stats() const {
    std::vector<TokenStats> stats;
    for (const Token& token : tokens_)
        stats.push_back({token.name, token.count, token.count - token.free, token.wanted});
    return stats;
}

}  // namespace sidestep::detail
