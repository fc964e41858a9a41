// An input that is no container, and takes its time: a thread of the stream pulls it.
#pragma once

#include <cstddef>
#include <functional>
#include <iterator>
#include <stdexcept>
#include <utility>

#include "support.hpp"

namespace test {

// 0, 1, 2...: each as soon as it may be given. The end comes at `end`, or what may_give() throws.
class Paced {
  public:
    Paced(int end, std::function<bool(int)> may_give) : end_(end), may_give_(std::move(may_give)) {}
    class Iterator {
      public:
        using value_type = int;
        using difference_type = std::ptrdiff_t;
        explicit Iterator(Paced* of) : of_(of) {}
        int operator*() const { return of_->give(); }
        Iterator& operator++() {
            ++of_->at_;
            return *this;
        }
        void operator++(int) { ++*this; }
        bool operator==(std::default_sentinel_t) const { return of_->at_ == of_->end_; }

      private:
        Paced* of_;
    };
    Iterator begin() { return Iterator(this); }
    std::default_sentinel_t end() const { return {}; }

  private:
    int give() const {
        if (!test::eventually([&] { return may_give_(at_); }))
            throw std::runtime_error("the input waited in vain");
        return at_;
    }
    int end_;
    int at_ = 0;
    std::function<bool(int)> may_give_;
};

}  // namespace test
