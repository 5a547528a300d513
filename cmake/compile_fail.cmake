# cmake -D SOURCE=file -P compile_fail.cmake -- compiler argument...
# Succeeds where the command fails and prints, for each line "// expect: text" of the source, that text as it stands.

file(STRINGS "${SOURCE}" expected REGEX "^// expect: .+")
list(TRANSFORM expected REPLACE "^// expect: " "")
if(NOT expected)
  message(FATAL_ERROR "${SOURCE} has no line '// expect: text'")
endif()

set(command "")
foreach(i RANGE ${CMAKE_ARGC})
  if(DEFINED separator)
    list(APPEND command "${CMAKE_ARGV${i}}")
  elseif("${CMAKE_ARGV${i}}" STREQUAL "--")
    set(separator ${i})
  endif()
endforeach()

execute_process(COMMAND ${command} RESULT_VARIABLE result OUTPUT_VARIABLE output ERROR_VARIABLE output)
message("${output}")
if(result EQUAL 0)
  message(FATAL_ERROR "compiled, and must not")
endif()
foreach(text IN LISTS expected)
  string(FIND "${output}" "${text}" position)
  if(position EQUAL -1)
    message(FATAL_ERROR "failed, but without saying: ${text}")
  endif()
endforeach()
