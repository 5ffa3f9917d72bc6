// A program: calls of kernels, kept while they run, to be run again in their order by one call.
//
// What a call was given by value is kept with it, and so is what it was given as a struct; what addresses point to is
// not, and must still be there when the program runs.
#pragma once
#include <functional>
#include <optional>
#include <vector>

#include "rows.h"

namespace inlay {

using Program = std::vector<std::function<void()>>;

// The program that the calls of this thread are kept in; null where none is.
Program*& program_of_thread();

// Runs f, which must own what it needs, and keeps it where this thread records. What an export returns.
template <class F>
Status perform(F f) {
  return guarded([&] {
    f();
    if (Program* program = program_of_thread()) program->emplace_back(std::move(f));
  });
}

inline std::optional<Input> own(const Input* in) { return in == nullptr ? std::nullopt : std::optional<Input>(*in); }

}  // namespace inlay
